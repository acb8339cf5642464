-- Attempt a delivery again now, from the beginning of its schedule, whatever state its job is in by now.
-- ARGV: id, redeliveries a minute, the caller's submits a minute (0: any)
-- Returns the time until one more is allowed (us) if it was refused, or 0; also if there is no such delivery
local key = P .. 'delivery:' .. ARGV[1]
local delivery = redis.call('HMGET', key, 'caller', 'receiver', 'state')
if not delivery[1] then return 0 end
local wait_us = count_manual_act(delivery[1], 'redeliveries_until_us', tonumber(ARGV[2]), tonumber(ARGV[3]))
if wait_us > 0 then return wait_us end
local queue = delivery_queue(delivery[1], delivery[2])
redis.call('HSET', key, 'is_manual', 1)
-- An attempt is under way: once more if that one fails.
if delivery[3] == 'waiting' and redis.call('ZSCORE', P .. 'delivery_leases:' .. queue, ARGV[1]) then
  redis.call('HSET', key, 'attempt_again', 1)
  return 0
end
if delivery[3] ~= 'waiting' then
  count_total('webhooks_waiting')
  redis.call('HSET', key, 'state', 'waiting')
end
redis.call('HSET', key, 'attempts_made', 0)
schedule_delivery(ARGV[1], queue, now())
return 0
