-- Complete a job whose images are stored.
-- ARGV: id, fence, result (JSON), ttl_us
-- Returns 1, or 0 if the fence is stale or the job was stopped: its images then belong to no job
local id, fence, result, ttl_us = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not holds_lease(id, fence) then
  -- The same call again, because its answer was lost.
  local job = redis.call('HMGET', job_key(id), 'state', 'fence')
  return (job[1] == 'completed' and job[2] == fence) and 1 or 0
end
local job = redis.call('HMGET', job_key(id), 'stop_code', 'images')
if job[1] then
  finish_stopped(id, job[1], ttl_us)
  return 0
end
finish(id, 'completed', {'result', result}, ttl_us)
redis.call('HINCRBY', P .. 'totals', 'images', job[2])
return 1
