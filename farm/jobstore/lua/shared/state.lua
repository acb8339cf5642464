-- The state of a job: each change is checked against the table of transitions, and published in the same step.

local function job_key(id) return P .. 'job:' .. id end

-- Notify those who watch a job that its record changed.
local function notify_watchers(id) redis.call('PUBLISH', P .. 'changes:' .. id, '') end

-- True if the job is in this state for the first time. A job that comes back from a dead worker sends no webhook.
local function is_first_time_in(state, sequence)
  return (state == 'created' and sequence == 1) or (state == 'processing' and sequence == 2)
    or state == 'completed' or state == 'failed'
end

-- Append a job's present state to the outbox, enqueue its webhook delivery if it wants one, and notify its watchers.
local function publish_state(id, state, sequence)
  local job = redis.call('HMGET', job_key(id), 'caller', 'endpoint', 'code', 'webhook_events', 'receiver')
  -- Bounded: it is a log for observers, who find the truth in the record.
  redis.call('XADD', P .. 'outbox', 'MAXLEN', '~', 100000, '*',
    'job', id, 'state', state, 'sequence', sequence, 'caller', job[1], 'endpoint', job[2], 'code', job[3] or '')
  if job[4] and is_first_time_in(state, sequence) and string.find(',' .. job[4] .. ',', ',' .. state .. ',', 1, true) then
    enqueue_delivery(id .. '-' .. sequence, {job = id, caller = job[1], receiver = job[5], event = state, sequence = sequence})
  end
  notify_watchers(id)
end

-- The only way to change a state. Returns false, and writes nothing, if the table of transitions does not allow it.
local function transition(id, to)
  local key = job_key(id)
  local job = redis.call('HMGET', key, 'state', 'queue', 'model', 'images', 'cost')
  local from = job[1]
  if not from or not is_allowed(from, to) then return false end
  redis.call('HSET', key, 'state', to)
  count_work(place_of_work(from, job[2]), job[3], -1, job[4], job[5])
  local place = place_of_work(to, job[2])
  if place then count_work(place, job[3], 1, job[4], job[5]) end
  publish_state(id, to, redis.call('HINCRBY', key, 'sequence', 1))
  return true
end

-- So many of a job's last runs are kept in its record.
local MAX_RUNS = 10

-- Record a run that has ended, or that ends otherwise than it seemed: its worker was only slow.
local function record_run(id, reason)
  local key = job_key(id)
  local job = redis.call('HMGET', key, 'runs', 'worker', 'started_us', 'step')
  if not job[3] then return end
  local runs = job[1] and cjson.decode(job[1]) or {}
  if runs[1] and runs[#runs].started_us == job[3] then table.remove(runs) end
  if #runs == MAX_RUNS then table.remove(runs, 1) end
  runs[#runs + 1] = {worker = job[2], host = redis.call('HGET', P .. 'worker:' .. job[2], 'host') or '',
    started_us = job[3], ended_us = integer(now()), step = tonumber(job[4]), reason = reason}
  redis.call('HSET', key, 'runs', cjson.encode(runs))
end

-- End one run of a job on a worker, for a reason: `completed`, a code, or why it is taken back.
local function end_run(id, reason)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'render_deadline', id)
  record_run(id, reason)
end

-- How long a job is kept after its end. One whose images were sent inline is kept for an hour, in case its answer was lost.
local function retention_us(inline, keep_us, ttl_us)
  return math.min(ttl_us, inline and HOUR_US or ttl_us, tonumber(keep_us or ttl_us))
end

-- The jobs that this call has ended, for the log.
local ended_jobs = {}

-- End a job; `fields` are written with the state. Returns false if it has ended already.
local function finish(id, state, fields, ttl_us)
  local key = job_key(id)
  local job = redis.call('HMGET', key, 'state', 'inline', 'keep_us', 'idempotency_key', 'direct_key', 'redacted_request',
    'model', 'priority', 'created_us', 'caller', 'images', 'bulk', 'kept_until_us')
  if job[1] == 'created' then dequeue(id) end
  if not is_allowed(job[1], state) then return false end
  redis.call('HSET', key, 'finished_us', integer(now()), unpack(fields))
  if job[1] == 'processing' or state == 'completed' then end_run(id, state == 'completed' and state or redis.call('HGET', key, 'code')) end
  redis.call('ZADD', P .. 'expiry', job[13] or integer(now() + retention_us(job[2], job[3], ttl_us)), id)
  if job[4] then redis.call('PEXPIRE', job[4], DAY_US / 1000) end
  if job[5] then finish_direct_call(id, job[5], state) end
  if job[12] then finish_line(job[12], id, state) end
  if job[6] then
    redis.call('HSET', key, 'request', job[6])
    redis.call('HDEL', key, 'redacted_request')
  end
  if state == 'completed' then
    count_total('jobs_completed:' .. job[7])
    observe('job_duration_seconds', ':' .. job[7] .. ':' .. job[8], (now() - job[9]) / SECOND_US)
  else
    count_total('jobs_failed:' .. job[7] .. ':' .. redis.call('HGET', key, 'code'))
  end
  count_for_caller(job[10], state, job[11])
  ended_jobs[#ended_jobs + 1] = id
  return transition(id, state)
end

local STOP_ERRORS = {
  cancelled = 'The job was cancelled.',
  client_disconnected = 'The client disconnected before the answer and did not reconnect.',
}

-- End a job that had to be stopped, with the code that was noted then.
local function finish_stopped(id, code, ttl_us)
  return finish(id, 'failed', {'code', code, 'error', STOP_ERRORS[code]}, ttl_us)
end

-- End a job that no worker has started, and refund its caller.
local function finish_waiting(id, fields, ttl_us)
  local job = redis.call('HMGET', job_key(id), 'queue', 'caller')
  finish(id, 'failed', fields, ttl_us)
  refund_unclaimed(job[1], job[2])
end

-- End a job that was not started before its deadline.
local function finish_late(id, ttl_us)
  finish_waiting(id, {'code', 'start_timeout', 'error', 'The job was not started within the time that was set for it.'}, ttl_us)
end

-- Stop a job: a waiting one ends at once, a running one when its worker has been notified.
-- Returns 'cancelled' (it ended), 'stopping', 'ended' (before) or 'unknown'
local function stop(id, code, ttl_us)
  local state = redis.call('HGET', job_key(id), 'state')
  if state == 'created' then
    finish_waiting(id, {'code', code, 'error', STOP_ERRORS[code]}, ttl_us)
    return 'cancelled'
  end
  if state == 'processing' then
    redis.call('HSETNX', job_key(id), 'stop_code', code)
    local direct = redis.call('HGET', job_key(id), 'direct_key')
    if direct then forget_direct_call(id, direct) end
    redis.call('PUBLISH', P .. 'stop', id)
    return 'stopping'
  end
  return state and 'ended' or 'unknown'
end
