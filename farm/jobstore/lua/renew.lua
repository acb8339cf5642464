-- A worker's heartbeat: extend its leases, and record the progress of its jobs.
-- ARGV: worker, lease_us, facts (JSON object of strings), then id, fence, step for each job it holds
-- Returns the ids whose rendering must stop: they were stopped, or no longer belong to this worker
local worker, lease_us = ARGV[1], tonumber(ARGV[2])
local until_us = integer(now() + lease_us)

local function renew(id, fence, step)
  local key = job_key(id)
  local job = redis.call('HMGET', key, 'state', 'fence', 'step', 'stop_code')
  if not is_leased(job[1], job[2], fence) then return false end
  -- The lease ran out but no other worker took the job: it belongs to this worker again, and its attempt counts again.
  if job[1] == 'created' then
    dequeue(id)
    if tonumber(redis.call('HGET', key, 'batch_peers')) > 0 then redis.call('HINCRBY', key, 'attempt', 1) end
    redis.call('ZADD', P .. 'render_deadline', redis.call('HGET', key, 'render_deadline_us'), id)
    transition(id, 'processing')
  end
  redis.call('ZADD', P .. 'leases', until_us, id)
  if job[3] ~= step then
    redis.call('HSET', key, 'step', step)
    notify_watchers(id)
  end
  return not job[4]
end

-- A heartbeat that is read after the death of its worker was reported keeps nothing.
local is_dead = redis.call('HEXISTS', P .. 'worker:' .. worker, 'dead') == 1
local to_stop = {}
for i = 4, #ARGV, 3 do
  if is_dead or not renew(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then to_stop[#to_stop + 1] = ARGV[i] end
end
if is_dead then return to_stop end
redis.call('ZADD', P .. 'workers', integer(now()), worker)
local facts = cjson.decode(ARGV[3])
local fields = {}
for name, value in pairs(facts) do
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
redis.call('HSET', P .. 'worker:' .. worker, unpack(fields))
redis.call('HSET', P .. 'worker_facts', worker, ARGV[3])
if facts.state == 'warm' then
  for model in string.gmatch(facts.models, '[^,]+') do
    -- A worker that holds nothing is idle, even if the answer to its claim was lost: the next wake-up is for it.
    if #ARGV == 3 and redis.call('HEXISTS', P .. 'worker:' .. worker, 'draining') == 0 then
      redis.call('SADD', P .. 'idle_workers:' .. model, worker)
    end
    redis.call('HSET', P .. 'models', model, cjson.encode({
      weights = facts.weights, safety = facts.safety, build = facts.build, seen_us = integer(now())}))
  end
end
return to_stop
