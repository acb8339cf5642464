-- Cancel a job.
-- ARGV: id, ttl_us
-- Returns 'cancelled' (it never started), 'stopping' (its worker is told to), 'ended' or 'unknown'
local id, ttl_us = ARGV[1], tonumber(ARGV[2])
local job = redis.call('HMGET', job_key(id), 'state', 'model', 'priority', 'caller')
if not job[1] then return 'unknown' end
if job[1] == 'created' then
  finish_cancelled(id, ttl_us)
  charge_only_what_was_claimed(job[2] .. ':' .. job[3], job[4])
  return 'cancelled'
end
if job[1] == 'processing' then
  redis.call('HSET', job_key(id), 'cancelling', 1)
  redis.call('PUBLISH', P .. 'stop', id)
  return 'stopping'
end
return 'ended'
