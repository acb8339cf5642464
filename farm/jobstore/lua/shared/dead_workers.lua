-- Workers that died, and the jobs that they held.

-- The error with which a job ends whose worker died; none if it may be tried again. The crash of a batch counts for none of
-- its jobs.
local function final_error(attempt, batch_peers, no_retry, max_attempts)
  if no_retry then return 'The worker died, and the job must not be retried.' end
  if attempt >= max_attempts and batch_peers == 0 then
    count_total('jobs_exhausted')
    return 'The job was started ' .. attempt .. ' times, and its worker died each time.'
  end
end

-- Take a job from its dead worker: back to its queue, or to its end. Returns false if it is not processing.
local function take_from_dead_worker(id, max_attempts, ttl_us)
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'batch_peers', 'stop_code', 'no_retry')
  if job[1] ~= 'processing' then return false end
  count_total('jobs_taken_back')
  local batch_peers = tonumber(job[3])
  local error_text = not job[4] and final_error(tonumber(job[2]), batch_peers, job[5], max_attempts)
  if job[4] then
    finish_stopped(id, job[4], ttl_us)
  elseif error_text then
    finish(id, 'failed', {'code', 'attempts_exhausted', 'error', error_text}, ttl_us)
  else
    isolate(id, batch_peers)
    take_back(id, 'worker_lost', 0)
  end
  return true
end

-- Remove a dead worker from everything that lists workers. Its own hash may still say that it is dead.
local function forget_worker(worker)
  for _, model in ipairs(redis.call('HKEYS', P .. 'models')) do redis.call('SREM', P .. 'idle_workers:' .. model, worker) end
  redis.call('DEL', P .. 'worker_vfinish:' .. worker)
  redis.call('ZREM', P .. 'workers', worker)
  redis.call('HDEL', P .. 'worker_facts', worker)
end
