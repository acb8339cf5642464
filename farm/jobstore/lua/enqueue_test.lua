-- Enqueue a delivery that belongs to no job, for a caller to test a receiver. It is deleted after an hour.
-- ARGV: the id that stands for its job, caller, url, receiver, tests a minute, the caller's submits a minute (0: any)
-- Returns its id, and the time until one more is allowed (us) if it was refused, or 0
local id = ARGV[1] .. '-0'
if redis.call('EXISTS', P .. 'delivery:' .. id) == 1 then return {id, 0} end
local wait_us = count_manual_act(ARGV[2], 'tests_until_us', tonumber(ARGV[5]), tonumber(ARGV[6]))
if wait_us > 0 then return {id, wait_us} end
redis.call('HSET', P .. 'delivery:' .. id, 'url', ARGV[3])
enqueue_delivery(id, {job = ARGV[1], caller = ARGV[2], receiver = ARGV[4], event = 'test', sequence = 0})
redis.call('ZADD', P .. 'expiry', integer(now() + HOUR_US), ARGV[1])
return {id, 0}
