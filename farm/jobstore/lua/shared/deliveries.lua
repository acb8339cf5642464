-- Webhook deliveries. Each stands in the queue of its caller and receiver: callers do not wait for one another, although
-- they may have one receiver.

local function delivery_queue(caller, receiver) return caller .. ' ' .. receiver end

-- Schedule the next look at a queue: when a lease must be over, or, if there is capacity, when its first delivery is due.
local function schedule_queue(queue, has_capacity)
  local leased = redis.call('ZRANGE', P .. 'delivery_leases:' .. queue, 0, 0, 'WITHSCORES')
  local due = has_capacity and redis.call('ZRANGE', P .. 'delivery_queue:' .. queue, 0, 0, 'WITHSCORES') or {}
  local at = math.min(tonumber(leased[2] or math.huge), tonumber(due[2] or math.huge))
  if at < math.huge then
    redis.call('ZADD', P .. 'delivery_queues', integer(at), queue)
  else
    redis.call('ZREM', P .. 'delivery_queues', queue)
  end
end

-- True if a courier would find a delivery now.
local function is_any_delivery_due()
  return redis.call('ZCOUNT', P .. 'delivery_queues', '-inf', integer(now())) > 0
end

-- Have a delivery attempted at `at`.
local function schedule_delivery(id, queue, at)
  redis.call('ZADD', P .. 'delivery_queue:' .. queue, integer(at), id)
  redis.call('HSET', P .. 'delivery:' .. id, 'due_us', integer(at))
  schedule_queue(queue, true)
  redis.call('PUBLISH', P .. 'delivery_due', '')
end

local function end_delivery_lease(id, caller, queue)
  redis.call('HDEL', P .. 'delivery:' .. id, 'held_by')
  redis.call('ZREM', P .. 'delivery_leases:' .. queue, id)
  redis.call('ZREM', P .. 'delivery_leases_of:' .. caller, id)
end

-- About how much memory a delivery takes, in bytes, besides its attempts.
local DELIVERY_BYTES = 1000

local function count_delivery_bytes(id, caller, bytes)
  redis.call('HINCRBY', P .. 'delivery:' .. id, 'bytes', bytes)
  count_kept(caller, bytes)
end

-- One script may enqueue several deliveries: a microsecond apart they have an order, in which they are listed.
local enqueued_deliveries = 0

local function enqueue_delivery(id, fields)
  local caller, receiver, time = fields.caller, fields.receiver, integer(now() + enqueued_deliveries)
  enqueued_deliveries = enqueued_deliveries + 1
  redis.call('HSET', P .. 'delivery:' .. id, 'job', fields.job, 'caller', caller, 'receiver', receiver, 'event', fields.event,
    'sequence', fields.sequence, 'state', 'waiting', 'fence', 0, 'attempts_made', 0, 'created_us', time)
  count_delivery_bytes(id, caller, DELIVERY_BYTES)
  redis.call('ZADD', P .. 'deliveries', time, id)
  redis.call('ZADD', P .. 'deliveries:' .. caller, time, id)
  count_total('webhooks_waiting')
  schedule_delivery(id, delivery_queue(caller, receiver), time)
end

-- True if the end of a job, or a test, has still to be delivered.
local function is_end_undelivered(id)
  local sequence = redis.call('HGET', job_key(id), 'sequence') or 0
  return redis.call('HGET', P .. 'delivery:' .. id .. '-' .. sequence, 'state') == 'waiting'
end
