-- A direct call hung up before its answer. If no other waits for its job, that is let go unless it is asked for again.
-- ARGV: id, the call
-- Returns 1 where nobody waits for the job any more, or 0
local id, call = ARGV[1], ARGV[2]
local direct = redis.call('HGET', job_key(id), 'direct')
if not direct then return 0 end
local has_waited = redis.call('SREM', P .. 'calls:' .. id, call) == 1
if redis.call('SCARD', P .. 'calls:' .. id) > 0 then return 0 end
-- It is not there any more where the job failed, or was let go already.
if not redis.call('ZSCORE', direct, id) then return 0 end
if has_waited then
  redis.call('ZADD', direct, whole(now()), id)
  redis.call('ZADD', P .. 'letting_go', whole(now() + AGAIN_US), id)
end
return 1
