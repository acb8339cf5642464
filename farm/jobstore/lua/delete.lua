-- Delete a finished job and its deliveries. Its images are removed before.
-- ARGV: id, 'expired' (its retention is over) or 'requested' (its owner wants it gone)
-- Returns 1, or 0 if it has not ended, or is expired but its end has still to be delivered
local id, reason = ARGV[1], ARGV[2]

local function delete_delivery(delivery_id)
  local key = P .. 'delivery:' .. delivery_id
  local delivery = redis.call('HMGET', key, 'caller', 'receiver', 'state', 'bytes')
  if not delivery[1] then return end
  local queue = delivery_queue(delivery[1], delivery[2])
  redis.call('DEL', key, P .. 'delivery_attempts:' .. delivery_id)
  redis.call('ZREM', P .. 'deliveries', delivery_id)
  redis.call('ZREM', P .. 'deliveries:' .. delivery[1], delivery_id)
  redis.call('ZREM', P .. 'delivery_queue:' .. queue, delivery_id)
  end_delivery_lease(delivery_id, delivery[1], queue)
  if delivery[3] == 'waiting' then count_total('webhooks_waiting', -1) end
  count_kept(delivery[1], -(delivery[4] or 0))
  schedule_queue(queue, true)
  if not redis.call('ZSCORE', P .. 'delivery_queues', queue) then redis.call('HDEL', P .. 'delivery_failures', queue) end
end

local job = redis.call('HMGET', job_key(id), 'state', 'caller', 'idempotency_key', 'sequence', 'direct_key', 'bytes')
if job[1] and job[1] ~= 'completed' and job[1] ~= 'failed' then return 0 end
if reason == 'expired' and is_end_undelivered(id) then
  redis.call('ZADD', P .. 'expiry', integer(now() + HOUR_US), id)
  return 0
end
redis.call('DEL', job_key(id))
if job[5] then forget_direct_call(id, job[5]) end
for sequence = 0, tonumber(job[4] or 0) do delete_delivery(id .. '-' .. sequence) end
-- An idempotency key is kept for its day even if its job was kept for less. By now it may belong to another job.
local known = reason == 'requested' and job[3] and redis.call('GET', job[3])
if known and cjson.decode(known).id == id then redis.call('DEL', job[3]) end
redis.call('ZREM', P .. 'jobs', id)
if job[2] then
  count_kept(job[2], -(job[6] or 0))
  redis.call('ZREM', P .. 'jobs:' .. job[2], id)
  redis.call('ZREM', P .. 'jobs:' .. job[2] .. ':wavespeed', id)
end
redis.call('ZREM', P .. 'expiry', id)
return 1
