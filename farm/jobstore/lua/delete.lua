-- Forget a finished job, and what was to be told of it. Its pictures are removed before.
-- ARGV: id, 'over' (its time is over) or 'wanted' (whoever it belongs to wants it gone)
-- Returns 1, or 0 where it has not ended, or its time is over but its end is still to be told
local id = ARGV[1]
local job = redis.call('HMGET', job_key(id), 'state', 'caller', 'idempotency', 'sequence', 'direct')
if job[1] and job[1] ~= 'completed' and job[1] ~= 'failed' then return 0 end
if ARGV[2] == 'over' and not is_told(id) then
  redis.call('ZADD', P .. 'expiry', whole(now() + HOUR_US), id)
  return 0
end
redis.call('DEL', job_key(id))
if job[5] then let_go(id, job[5]) end
for sequence = 0, tonumber(job[4] or 0) do forget_delivery(id .. '-' .. sequence) end
-- A key is kept for its day, also where its job was kept for less. It may be another job's by now.
local known = ARGV[2] == 'wanted' and job[3] and redis.call('GET', job[3])
if known and cjson.decode(known).id == id then redis.call('DEL', job[3]) end
redis.call('ZREM', P .. 'jobs', id)
if job[2] then redis.call('ZREM', P .. 'jobs:' .. job[2], id) end
redis.call('ZREM', P .. 'expiry', id)
return 1
