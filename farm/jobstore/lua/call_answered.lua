-- A direct call was answered with its job's images: no equal call gets them, also if heartbeats of this one were missing.
-- ARGV: id, call
local id, call = ARGV[1], ARGV[2]
local direct = redis.call('HGET', job_key(id), 'direct_key')
if direct and redis.call('SREM', P .. 'waiting_calls:' .. id, call) == 1 then redis.call('ZADD', direct, 'XX', -1, id) end
return 1
