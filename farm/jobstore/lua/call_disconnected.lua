-- A direct call disconnected before its answer. If no other waits for its job, the job is abandoned unless an equal call comes.
-- ARGV: id, call
-- Returns 1 if no call waits for the job any longer, or 0
local id, call = ARGV[1], ARGV[2]
local direct = redis.call('HGET', job_key(id), 'direct_key')
if not direct then return 0 end
local has_waited = redis.call('SREM', P .. 'waiting_calls:' .. id, call) == 1
if redis.call('SCARD', P .. 'waiting_calls:' .. id) > 0 then return 0 end
-- It is gone if the job failed, or was abandoned already.
if not redis.call('ZSCORE', direct, id) then return 0 end
if has_waited then
  redis.call('ZADD', direct, integer(now()), id)
  redis.call('ZADD', P .. 'abandon_deadline', integer(now() + RECONNECT_US), id)
end
return 1
