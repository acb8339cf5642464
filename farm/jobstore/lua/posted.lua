-- A try is over.
-- ARGV: id, fence, outcome ('delivered' | 'waiting' | 'failed' | 'dropped'), attempt (JSON, or none), pause_us
-- Returns the delivery's state afterwards, or 'gone'
local id, fence, outcome, attempt, pause_us = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local key = P .. 'delivery:' .. id
local delivery = redis.call('HMGET', key, 'receiver', 'fence', 'state', 'attempts')
if not delivery[1] then return 'gone' end
local receiver = delivery[1]

if attempt ~= '' then
  redis.call('HSET', key, 'attempts', delivery[4] and (delivery[4] .. ',' .. attempt) or attempt)
  redis.call('HINCRBY', P .. 'totals', 'attempts:' .. outcome, 1)
end
if outcome == 'delivered' then
  redis.call('HDEL', P .. 'faults', receiver)
elseif attempt ~= '' then
  redis.call('HINCRBY', P .. 'faults', receiver, 1)
end

-- Somebody else tries it by now, and will tell; but what has arrived has arrived.
if delivery[2] ~= fence and outcome ~= 'delivered' then return delivery[3] end
redis.call('ZREM', P .. 'posting:' .. receiver, id)
if delivery[3] ~= 'waiting' then
  look_again(receiver, true)
  return delivery[3]
end
if outcome == 'waiting' then
  deliver_at(id, receiver, now() + pause_us)
  return 'waiting'
end
redis.call('ZREM', P .. 'due:' .. receiver, id)
redis.call('HSET', key, 'state', outcome)
redis.call('HDEL', key, 'due_us')
redis.call('HINCRBY', P .. 'totals', 'deliveries:waiting', -1)
redis.call('HINCRBY', P .. 'totals', 'deliveries:' .. outcome, 1)
look_again(receiver, true)
return outcome
