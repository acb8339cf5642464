-- The right of a worker to a job: a lease that it renews, and a fence that shows whether the job is still its own.

-- True if the worker with this fence may still write: also if its lease ran out but no other has claimed the job since.
local function is_leased(state, its_fence, fence)
  return its_fence == fence and (state == 'processing' or state == 'created')
end

local function holds_lease(id, fence)
  local job = redis.call('HMGET', job_key(id), 'state', 'fence')
  return is_leased(job[1], job[2], fence)
end

-- Its worker gives a job up: no later write of that worker may touch it.
local function drop_fence(id) redis.call('HSET', job_key(id), 'fence', 0) end

-- The jobs that this call has taken back, each with the reason, for the log.
local returned_jobs = {}

-- Take a processing job back from its worker, for a reason that is counted: to the front, or, with a delay, to the front
-- when that is over.
local function take_back(id, reason, delay_us)
  local key = job_key(id)
  end_run(id, reason)
  local job = redis.call('HMGET', key, 'caller', 'start_deadline_us', 'bytes')
  count_waiting(job[1], 1, job[3])
  -- The deadline counts from the submit, as if no worker had started the job.
  if job[2] then redis.call('ZADD', P .. 'start_deadline', job[2], id) end
  redis.call('HSET', key, 'step', 0)
  transition(id, 'created')
  count_total('job_retries:' .. reason)
  returned_jobs[#returned_jobs + 1] = id
  returned_jobs[#returned_jobs + 1] = reason
  if delay_us > 0 then
    redis.call('ZADD', P .. 'delayed', integer(now() + delay_us), id)
  else
    enqueue_at_front(id)
  end
end

-- Have a job rendered alone from now on. A crash beside others does not count as an attempt: the job may be innocent.
local function isolate(id, batch_peers)
  if batch_peers > 0 then redis.call('HINCRBY', job_key(id), 'attempt', -1) end
  redis.call('HSET', job_key(id), 'render_alone', 1)
end
