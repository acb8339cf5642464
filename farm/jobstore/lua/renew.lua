-- A worker's sign of life: it goes on holding its jobs, and says how far they are.
-- ARGV: worker, lease_us, facts (JSON object of strings), then id, fence, step for each job it holds
-- Returns the ids whose rendering must stop: nobody wants them any more, or they are no longer this worker's
local worker, lease_us = ARGV[1], tonumber(ARGV[2])
local until_us = whole(now() + lease_us)

local function renew(id, fence, step)
  if not holds(id, fence) then return false end
  local key = job_key(id)
  -- The lease ran out, but nobody took the job: it is this worker's again, and its start counts again.
  if redis.call('HGET', key, 'state') == 'created' then
    leave_line(id)
    if tonumber(redis.call('HGET', key, 'mates')) > 0 then redis.call('HINCRBY', key, 'attempt', 1) end
    redis.call('ZADD', P .. 'render_by', redis.call('HGET', key, 'render_by_us'), id)
    transition(id, 'processing')
  end
  redis.call('ZADD', P .. 'leases', until_us, id)
  if redis.call('HGET', key, 'step') ~= step then
    redis.call('HSET', key, 'step', step)
    tell(id)
  end
  return redis.call('HEXISTS', key, 'stopping') == 0
end

local to_stop = {}
for i = 4, #ARGV, 3 do
  if not renew(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then to_stop[#to_stop + 1] = ARGV[i] end
end
redis.call('ZADD', P .. 'workers', whole(now()), worker)
local facts = cjson.decode(ARGV[3])
for name, value in pairs(facts) do redis.call('HSET', P .. 'worker:' .. worker, name, value) end
redis.call('HSET', P .. 'worker:' .. worker, 'jobs', (#ARGV - 3) / 3, 'beat_us', whole(now()))
if facts.state == 'warm' then
  for model in string.gmatch(facts.models, '[^,]+') do
    -- Whoever holds nothing is idle, even if the answer that told it so was lost: the next bell is for it.
    if #ARGV == 3 and redis.call('HEXISTS', P .. 'worker:' .. worker, 'drain') == 0 then
      redis.call('SADD', P .. 'idle:' .. model, worker)
    end
    redis.call('HSET', P .. 'models', model, cjson.encode({
      weights = facts.weights, safety = facts.safety, build = facts.build, seen_us = whole(now())}))
  end
end
return to_stop
