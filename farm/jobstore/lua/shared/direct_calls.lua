-- Direct calls: the client keeps the connection open until its job has ended, and may reconnect with an equal call.

-- For so long after a disconnect an equal call goes on with the job.
local RECONNECT_US = 30 * SECOND_US

-- For so long after the last heartbeat of its API process a direct call counts as connected.
local CALL_TIMEOUT_US = 3 * SECOND_US

-- Record a heartbeat of a direct call that waits for this job.
local function record_heartbeat(id, direct)
  local until_us = now() + CALL_TIMEOUT_US
  redis.call('ZADD', direct, integer(until_us), id)
  redis.call('ZADD', P .. 'abandon_deadline', integer(until_us + RECONNECT_US), id)
end

-- From now on no direct call can go on with this job.
local function forget_direct_call(id, direct)
  redis.call('ZREM', direct, id)
  redis.call('DEL', P .. 'waiting_calls:' .. id)
  redis.call('ZREM', P .. 'abandon_deadline', id)
end

-- The job of a direct call has ended: a client that sends the call again gets images that it missed; a failure is retried.
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
