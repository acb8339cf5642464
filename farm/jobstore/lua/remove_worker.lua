-- Remove a worker that exits.
-- ARGV: worker, model, model, …
for i = 2, #ARGV do redis.call('SREM', P .. 'idle_workers:' .. ARGV[i], ARGV[1]) end
redis.call('DEL', P .. 'worker:' .. ARGV[1], P .. 'worker_vfinish:' .. ARGV[1])
redis.call('ZREM', P .. 'workers', ARGV[1])
redis.call('HDEL', P .. 'worker_facts', ARGV[1])
return 1
