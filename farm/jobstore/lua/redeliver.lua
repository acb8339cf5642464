-- Try a delivery again now, from the beginning of its schedule.
-- ARGV: id
-- Returns 1, or 0 where there is none
local key = P .. 'delivery:' .. ARGV[1]
local delivery = redis.call('HMGET', key, 'receiver', 'state')
if not delivery[1] then return 0 end
-- Under way already: its outcome will tell.
if redis.call('ZSCORE', P .. 'posting:' .. delivery[1], ARGV[1]) then return 1 end
if delivery[2] ~= 'waiting' then
  redis.call('HINCRBY', P .. 'totals', 'deliveries:waiting', 1)
  redis.call('HSET', key, 'state', 'waiting')
end
redis.call('HSET', key, 'tries', 0)
deliver_at(ARGV[1], delivery[1], now())
return 1
