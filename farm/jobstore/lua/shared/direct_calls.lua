-- Direct calls: the client keeps the connection open until its job has ended, and may reconnect with an equal call.

-- For so long after a disconnect, or an answer without the result, an equal call goes on with the job.
local RECONNECT_US = 30 * SECOND_US

-- For so long after the last heartbeat of its API process a direct call counts as connected.
local CALL_TIMEOUT_US = 3 * SECOND_US

-- Record a heartbeat of a direct call that waits for this job.
local function record_heartbeat(id, direct)
  local until_us = now() + CALL_TIMEOUT_US
  redis.call('ZADD', direct, integer(until_us), id)
  redis.call('ZADD', P .. 'abandon_deadline', integer(until_us + RECONNECT_US), id)
end

-- A direct call ended without its job's result. If no other waits for the job, an equal one may go on with it for a while.
-- Returns true if no call waits for the job any longer, or false; also if the job failed, or was abandoned already.
local function end_call_without_result(id, direct, call)
  local has_waited = redis.call('SREM', P .. 'waiting_calls:' .. id, call) == 1
  if redis.call('SCARD', P .. 'waiting_calls:' .. id) > 0 or not redis.call('ZSCORE', direct, id) then return false end
  if has_waited then
    redis.call('ZADD', direct, integer(now()), id)
    redis.call('ZADD', P .. 'abandon_deadline', integer(now() + RECONNECT_US), id)
  end
  return true
end

-- From now on no direct call can go on with this job.
local function forget_direct_call(id, direct)
  redis.call('ZREM', direct, id)
  redis.call('DEL', P .. 'waiting_calls:' .. id)
  redis.call('ZREM', P .. 'abandon_deadline', id)
end

-- The job of a direct call has ended. Where no call waits for its images, an equal one still gets them; a failure is retried.
local function finish_direct_call(id, direct, state)
  local connected_until = redis.call('ZSCORE', direct, id)
  if not connected_until then return end
  if state == 'failed' then
    forget_direct_call(id, direct)
  elseif tonumber(connected_until) > now() then
    redis.call('ZADD', direct, -1, id)
    redis.call('ZADD', P .. 'abandon_deadline', integer(now() + RECONNECT_US), id)
  end
end
