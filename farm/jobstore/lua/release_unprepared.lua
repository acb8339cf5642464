-- A preparer that drains hands a job back: to the front, and the take does not count.
-- ARGV: id
-- Returns 1, or 0 where no preparer has it
local id = ARGV[1]
local job = redis.call('HMGET', job_key(id), 'lane', 'model', 'created_us')
local was_lost = redis.call('ZSCORE', P .. 'suspects', id)
if not was_lost and not redis.call('ZSCORE', P .. 'preparing', id) then return 0 end

redis.call('HINCRBY', job_key(id), 'takes', -1)
if was_lost then
  redis.call('ZADD', P .. 'suspects', whole(now()), id)
else
  step_out(id, job[1])
  stand_in_line(id, front_turn(), job[1], job[2], job[3])
end
redis.call('PUBLISH', P .. 'unprepared', '')
return 1
