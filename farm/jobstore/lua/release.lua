-- A worker that drains hands a job back: to the front, and the attempt does not count.
-- ARGV: id, fence, ttl_us
-- Returns the job's state afterwards, or 'stale'
local id, fence, ttl_us = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not holds_lease(id, fence) then
  count_total('fence_refusals:release')
  return 'stale'
end
local job = redis.call('HMGET', job_key(id), 'stop_code', 'state')
if job[1] then
  finish_stopped(id, job[1], ttl_us)
elseif job[2] == 'processing' then
  redis.call('HINCRBY', job_key(id), 'attempt', -1)
  drop_fence(id)
  take_back(id, 'drained', 0)
end
return redis.call('HGET', job_key(id), 'state')
