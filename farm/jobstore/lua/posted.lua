-- A try is over.
-- ARGV: id, fence, outcome ('delivered' | 'waiting' | 'failed' | 'dropped'), attempt (JSON, or none), pause_us, attempts kept
-- Returns the delivery's state afterwards, or 'gone'
local id, fence, outcome, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local pause_us, kept = tonumber(ARGV[5]), tonumber(ARGV[6])
local key = P .. 'delivery:' .. id
local delivery = redis.call('HMGET', key, 'caller', 'receiver', 'fence', 'state', 'told', 'again')
if not delivery[1] then return 'gone' end
local caller, line, state = delivery[1], line_of(delivery[1], delivery[2]), delivery[4]

-- The same call again, because its answer was lost.
if delivery[5] and tonumber(delivery[5]) >= tonumber(fence) then return state end
redis.call('HSET', key, 'told', fence)

if attempt ~= '' then
  redis.call('RPUSH', P .. 'attempts:' .. id, attempt)
  redis.call('LTRIM', P .. 'attempts:' .. id, -kept, -1)
  redis.call('HINCRBY', key, 'tries', 1)
  redis.call('HINCRBY', P .. 'totals', 'attempts:' .. outcome, 1)
end
if outcome == 'delivered' then
  redis.call('HDEL', P .. 'faults', line)
elseif attempt ~= '' then
  redis.call('HINCRBY', P .. 'faults', line, 1)
end

-- Somebody else tries it by now, and will tell; but what has arrived has arrived.
if delivery[3] ~= fence and outcome ~= 'delivered' then return state end
stop_posting(id, caller, line)
if state ~= 'waiting' then
  look_again(line, true)
  return state
end
-- Somebody asked for it by hand while it was under way.
if delivery[6] and outcome ~= 'delivered' then
  redis.call('HDEL', key, 'again')
  redis.call('HSET', key, 'tries', 0)
  deliver_at(id, line, now())
  return 'waiting'
end
if outcome == 'waiting' then
  deliver_at(id, line, now() + pause_us)
  return 'waiting'
end
redis.call('ZREM', P .. 'due:' .. line, id)
redis.call('HSET', key, 'state', outcome)
redis.call('HDEL', key, 'due_us', 'by_hand', 'again')
redis.call('HINCRBY', P .. 'totals', 'deliveries:waiting', -1)
redis.call('HINCRBY', P .. 'totals', 'deliveries:' .. outcome, 1)
look_again(line, true)
return outcome
