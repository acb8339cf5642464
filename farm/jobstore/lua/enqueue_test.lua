-- Enqueue a delivery that belongs to no job, for a caller to test a receiver. It is deleted after a day.
-- ARGV: the id that stands for its job, caller, url, receiver
-- Returns its id
local id = ARGV[1] .. '-0'
if redis.call('EXISTS', P .. 'delivery:' .. id) == 1 then return id end
redis.call('HSET', P .. 'delivery:' .. id, 'url', ARGV[3])
enqueue_delivery(id, {job = ARGV[1], caller = ARGV[2], receiver = ARGV[4], event = 'test', sequence = 0})
redis.call('ZADD', P .. 'expiry', integer(now() + DAY_US), ARGV[1])
return id
