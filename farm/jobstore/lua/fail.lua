-- A job could not be rendered: it is tried again, or failed.
-- ARGV: id, fence, code, error, retry ('never' | 'again' | 'alone'), delay_us, most attempts, ttl_us
-- 'alone': if it was rendered beside others, that start does not count, and it comes back alone at once.
-- Returns the job's state afterwards, or 'stale'
local id, fence, code, error_text, retry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local delay_us, most, ttl_us = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if not holds(id, fence) then return 'stale' end
local job = redis.call('HMGET', job_key(id), 'attempt', 'mates', 'stopping', 'state', 'once')
local attempt, mates = tonumber(job[1]), tonumber(job[2])

if job[3] then
  finish_stopped(id, job[3], ttl_us)
elseif retry == 'never' or job[5] or (attempt >= most and not (retry == 'alone' and mates > 0)) then
  finish(id, 'failed', {'code', code, 'error', error_text}, ttl_us)
elseif job[4] == 'processing' then
  if retry == 'alone' then isolate(id, mates) end
  drop_fence(id)
  take_back(id, (retry == 'alone' and mates > 0) and 0 or delay_us)
end
return redis.call('HGET', job_key(id), 'state')
