-- End a job that could not be rendered, or have it tried again.
-- ARGV: id, fence, code, error, retry ('never' | 'again' | 'alone'), delay_us, maximum of attempts, ttl_us
-- 'alone': if it was rendered beside others, that attempt does not count, and it comes back alone at once.
-- Returns the job's state afterwards, or 'stale'
local id, fence, code, error_text, retry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local delay_us, max_attempts, ttl_us = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if not holds_lease(id, fence) then
  count_total('fence_refusals:fail')
  return 'stale'
end
local job = redis.call('HMGET', job_key(id), 'attempt', 'batch_peers', 'stop_code', 'state', 'no_retry')
local attempt, batch_peers = tonumber(job[1]), tonumber(job[2])
local is_uncounted = retry == 'alone' and batch_peers > 0

if job[3] then
  finish_stopped(id, job[3], ttl_us)
elseif retry == 'never' or job[5] or (attempt >= max_attempts and not is_uncounted) then
  if retry ~= 'never' and not job[5] then count_total('jobs_exhausted') end
  finish(id, 'failed', {'code', code, 'error', error_text}, ttl_us)
elseif job[4] == 'processing' then
  if retry == 'alone' then isolate(id, batch_peers) end
  drop_fence(id)
  take_back(id, code, is_uncounted and 0 or delay_us)
end
return redis.call('HGET', job_key(id), 'state')
