-- Complete a job whose images are stored.
-- ARGV: id, fence, result (JSON), ttl_us, how long the device worked on it (us), its computed steps times megapixels (in
-- millionths), how long the usage of a day is kept (us), then what to count: field, by, field, by, …
-- Returns 'completed', or, if its images belong to no job, 'stale' (so is the fence) or 'stopped'
local id, fence, result, ttl_us = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

-- Learn how long the work of a model takes: sums of time and cost, in which a job counts the less the longer ago it was.
local function learn_pace(model, cost, device_us)
  if device_us == 0 then return end
  local known = redis.call('HMGET', P .. 'pace', model .. ':us', model .. ':cost')
  redis.call('HSET', P .. 'pace', model .. ':us', POLICY.pace_decay * (known[1] or 0) + device_us,
    model .. ':cost', POLICY.pace_decay * (known[2] or 0) + cost)
end

-- Count a completed job by day (UTC), caller and model: for invoices. `megapixel_steps` are millionths. A day is kept for
-- `keep_us` after its last job.
local function count_daily_usage(caller, model, images, megapixel_steps, device_us, keep_us)
  local day = caller .. ':' .. integer(math.floor(now() / DAY_US))
  local key = P .. 'daily_usage:' .. day
  redis.call('HINCRBY', key, model .. ':images', images)
  redis.call('HINCRBY', key, model .. ':megapixel_steps', megapixel_steps)
  redis.call('HINCRBY', key, model .. ':device_us', device_us)
  redis.call('PEXPIRE', key, integer(keep_us / 1000))
  redis.call('ZADD', P .. 'daily_usage', integer(now()), day)
  redis.call('ZREMRANGEBYSCORE', P .. 'daily_usage', '-inf', integer(now() - keep_us))
end

if not holds_lease(id, fence) then
  -- The same call again, because its answer was lost.
  local job = redis.call('HMGET', job_key(id), 'state', 'fence')
  if job[1] == 'completed' and job[2] == fence then return 'completed' end
  count_total('fence_refusals:complete')
  return 'stale'
end
local job = redis.call('HMGET', job_key(id), 'stop_code', 'model', 'cost', 'caller', 'images')
if job[1] then
  finish_stopped(id, job[1], ttl_us)
  return 'stopped'
end
finish(id, 'completed', {'result', result}, ttl_us)
for i = 8, #ARGV, 2 do count_total(ARGV[i], ARGV[i + 1]) end
learn_pace(job[2], tonumber(job[3]), tonumber(ARGV[5]))
count_daily_usage(job[4], job[2], job[5], ARGV[6], ARGV[5], tonumber(ARGV[7]))
return 'completed'
