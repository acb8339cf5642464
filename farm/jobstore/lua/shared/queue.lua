-- The queues of waiting jobs: {model}:{priority}, or unprepared:{priority} for jobs that are not ready for a GPU yet.
-- Priorities are normal, low and bulk.
--
-- They are fair queues (start-time fair queueing): a job's score is its virtual start time, at which the caller's job
-- before it would end if callers shared the GPUs equally. Jobs that come back have negative ones: they are first.

local function is_unprepared(queue) return string.sub(queue, 1, 11) == 'unprepared:' end

-- The key of the index by age. Unprepared jobs are indexed by their model.
local function queue_by_age_key(queue, model)
  return P .. 'queue_by_age:' .. (is_unprepared(queue) and 'unprepared:' .. model or queue)
end

-- The key of the jobs that may share a batch. Virtual times of two priorities belong to two queues: they do not compare.
local function batch_candidates_key(batch_key, priority) return P .. 'batch_candidates:' .. batch_key .. ':' .. priority end

-- Put a waiting job in its queue and, if it is ready for a GPU, among those that may share its batch; or set it aside.
local function enqueue(id, vstart)
  local job = redis.call('HMGET', job_key(id), 'queue', 'model', 'created_us', 'caller', 'batch_key', 'render_alone', 'priority')
  local is_ready = not is_unprepared(job[1])
  redis.call('ZADD', queue_by_age_key(job[1], job[2]), job[3], id)
  if is_ready and is_group_paused('caller', job[4]) then
    redis.call('ZADD', paused_jobs_key(job[4]), vstart, id)
    return
  end
  redis.call('ZADD', P .. 'queue:' .. job[1], vstart, id)
  if is_ready and job[6] ~= '1' then redis.call('ZADD', batch_candidates_key(job[5], job[7]), vstart, id) end
end

-- Before all other jobs, in the order of their coming back.
local function front_vstart() return now() - POLICY.front_seconds * SECOND_US end

-- Put a job that comes back before all others.
local function enqueue_at_front(id) enqueue(id, front_vstart()) end

-- Take a job from its queue, or from its preparer. It still counts as waiting, and stays in the index by age.
local function take_from_queue(id, queue)
  redis.call('ZREM', P .. 'queue:' .. queue, id)
  if redis.call('ZREM', P .. 'preparing', id) + redis.call('ZREM', P .. 'preparing_again', id) == 0 then return end
  redis.call('HDEL', job_key(id), 'held_by')
  local caller = redis.call('HGET', job_key(id), 'caller')
  if redis.call('HINCRBY', P .. 'preparing_count', caller, -1) <= 0 then redis.call('HDEL', P .. 'preparing_count', caller) end
end

-- Count one job more (1) or less (-1) of those of a caller that wait, with its bytes.
local function count_waiting(caller, by, bytes)
  if redis.call('HINCRBY', P .. 'waiting_count', caller, by) <= 0 then redis.call('HDEL', P .. 'waiting_count', caller) end
  if redis.call('HINCRBY', P .. 'waiting_bytes', caller, by * (bytes or 0)) <= 0 then redis.call('HDEL', P .. 'waiting_bytes', caller) end
end

-- Remove a job from everything that lists it as waiting.
local function dequeue(id)
  local job = redis.call('HMGET', job_key(id), 'queue', 'batch_key', 'caller', 'model', 'priority', 'bytes')
  take_from_queue(id, job[1])
  redis.call('ZREM', queue_by_age_key(job[1], job[4]), id)
  redis.call('ZREM', batch_candidates_key(job[2], job[5]), id)
  redis.call('ZREM', paused_jobs_key(job[3]), id)
  redis.call('ZREM', P .. 'delayed', id)
  redis.call('ZREM', P .. 'start_deadline', id)
  count_waiting(job[3], -1, job[6])
end

-- The virtual start time of a caller's next job: the end of its job before, or the present if it had none.
local function next_vstart(queue, caller, cost)
  local vclock = tonumber(redis.call('GET', P .. 'vclock:' .. queue) or 0)
  local vstart = math.max(vclock, tonumber(redis.call('ZSCORE', P .. 'accepted_vfinish:' .. queue, caller) or 0))
  redis.call('ZADD', P .. 'accepted_vfinish:' .. queue, vstart + cost, caller)
  return vstart
end

-- A caller without waiting jobs goes on at the virtual end of its claimed ones: it pays for no work that it did not get.
local function refund_unclaimed(queue, caller)
  if redis.call('HEXISTS', P .. 'waiting_count', caller) == 1 then return end
  local vfinish = redis.call('ZSCORE', P .. 'claimed_vfinish:' .. queue, caller) or 0
  redis.call('ZADD', P .. 'accepted_vfinish:' .. queue, vfinish, caller)
end

-- Set a queue's virtual clock to the start of the job that was taken, and forget callers whose virtual end it has passed.
local function advance_vclock(queue, vstart)
  if vstart <= tonumber(redis.call('GET', P .. 'vclock:' .. queue) or 0) then return end
  redis.call('SET', P .. 'vclock:' .. queue, vstart)
  redis.call('ZREMRANGEBYSCORE', P .. 'accepted_vfinish:' .. queue, '-inf', vstart)
  redis.call('ZREMRANGEBYSCORE', P .. 'claimed_vfinish:' .. queue, '-inf', vstart)
end

-- The order in which priorities are served this time.
local function priority_order(counter)
  local turn = redis.call('HINCRBY', P .. 'totals', counter, 1)
  for _, other in ipairs(POLICY.orders) do
    if turn % other[1] == 0 then return other[2] end
  end
  return POLICY.priorities
end


-- A job with an affinity joins a queue for a GPU: reserve it for the preferred worker for a moment.
local function reserve_for_preferred_worker(id)
  redis.call('HSET', job_key(id), 'affinity_deadline_us', integer(now() + POLICY.reserved_seconds * SECOND_US))
end
