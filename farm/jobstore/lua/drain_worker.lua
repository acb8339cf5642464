-- Have a worker take nothing more, and exit.
-- ARGV: worker
-- Returns 1, or 0 if no worker has this name
local key = P .. 'worker:' .. ARGV[1]
if redis.call('EXISTS', key) == 0 then return 0 end
redis.call('HSET', key, 'draining', 1)
local process = redis.call('HMGET', key, 'host', 'pid')
if process[2] then redis.call('SET', P .. 'drained_process:' .. process[1] .. ':' .. process[2], 1, 'EX', 3600) end
for _, model in ipairs(redis.call('HKEYS', P .. 'models')) do redis.call('SREM', P .. 'idle_workers:' .. model, ARGV[1]) end
return 1
