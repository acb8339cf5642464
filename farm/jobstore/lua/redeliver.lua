-- Try a delivery again now, from the beginning of its schedule, whatever has become of its job since.
-- ARGV: id
-- Returns 1, or 0 where there is none
local key = P .. 'delivery:' .. ARGV[1]
local delivery = redis.call('HMGET', key, 'caller', 'receiver', 'state')
if not delivery[1] then return 0 end
local line = line_of(delivery[1], delivery[2])
redis.call('HSET', key, 'by_hand', 1)
-- Under way already: once more if that does not arrive.
if delivery[3] == 'waiting' and redis.call('ZSCORE', P .. 'posting:' .. line, ARGV[1]) then
  redis.call('HSET', key, 'again', 1)
  return 1
end
if delivery[3] ~= 'waiting' then
  redis.call('HINCRBY', P .. 'totals', 'deliveries:waiting', 1)
  redis.call('HSET', key, 'state', 'waiting')
end
redis.call('HSET', key, 'tries', 0)
deliver_at(ARGV[1], line, now())
return 1
