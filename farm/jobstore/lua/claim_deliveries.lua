-- Give a courier deliveries that are due, at most one of each queue, under a lease.
-- ARGV: maximum of deliveries, lease_us, attempts at a time of a queue, failures in a row after which it has only one,
--       attempts at a time of a caller, nonce, the id of the courier's process
-- Returns JSON [{id, job, caller, receiver, url, event, sequence, fence, attempts_made, is_manual, created_us,
--   claimed_us, others_due}]
local max_deliveries, lease_us, capacity, max_failures = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local caller_capacity = tonumber(ARGV[5])
local reply_key, process = P .. 'claimed_deliveries:' .. ARGV[6], ARGV[7]
local time = now()
-- So many queues are looked at that turn out to have no capacity or nothing due; the others come after them.
local MAX_PASSED_OVER = 100

-- The same call again, because its answer was lost: the same deliveries, not more of them.
local known = redis.call('GET', reply_key)
if known then return known end

-- An attempt whose courier died, or was too slow to report: the delivery is due again.
local function take_back_overdue(caller, queue)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'delivery_leases:' .. queue, '-inf', integer(time))) do
    end_delivery_lease(id, caller, queue)
    redis.call('ZADD', P .. 'delivery_queue:' .. queue, integer(time), id)
  end
end

local function has_capacity(queue)
  local failures = tonumber(redis.call('HGET', P .. 'delivery_failures', queue) or 0)
  return redis.call('ZCARD', P .. 'delivery_leases:' .. queue) < (failures >= max_failures and 1 or capacity)
end

local function caller_has_capacity(caller)
  redis.call('ZREMRANGEBYSCORE', P .. 'delivery_leases_of:' .. caller, '-inf', integer(time))
  return redis.call('ZCARD', P .. 'delivery_leases_of:' .. caller) < caller_capacity
end

local function lease(id, queue)
  local key = P .. 'delivery:' .. id
  local delivery = redis.call('HMGET', key, 'job', 'caller', 'url', 'event', 'sequence', 'created_us', 'receiver',
    'attempts_made', 'is_manual')
  redis.call('HSET', key, 'held_by', process)
  redis.call('ZREM', P .. 'delivery_queue:' .. queue, id)
  redis.call('ZADD', P .. 'delivery_leases:' .. queue, integer(time + lease_us), id)
  redis.call('ZADD', P .. 'delivery_leases_of:' .. delivery[2], integer(time + lease_us), id)
  return {id = id, job = delivery[1], caller = delivery[2], url = delivery[3] or '', receiver = delivery[7],
    event = delivery[4], sequence = tonumber(delivery[5]), created_us = delivery[6], attempts_made = tonumber(delivery[8]),
    is_manual = delivery[9] == '1', claimed_us = integer(time), fence = redis.call('HINCRBY', key, 'fence', 1)}
end

local claimed = {}
local queues = redis.call('ZRANGEBYSCORE', P .. 'delivery_queues', '-inf', integer(time), 'LIMIT', 0, max_deliveries + MAX_PASSED_OVER)
for _, queue in ipairs(queues) do
  if #claimed == max_deliveries then break end
  local caller = string.match(queue, '^(%S+) ')
  take_back_overdue(caller, queue)
  if not caller_has_capacity(caller) then
    redis.call('ZADD', P .. 'delivery_queues', integer(time + SECOND_US), queue)
  else
    local due = has_capacity(queue)
      and redis.call('ZRANGEBYSCORE', P .. 'delivery_queue:' .. queue, '-inf', integer(time), 'LIMIT', 0, 1) or {}
    if due[1] then claimed[#claimed + 1] = lease(due[1], queue) end
    schedule_queue(queue, has_capacity(queue))
  end
end
if #claimed == 0 then return '[]' end
local others_due = is_any_delivery_due()
for _, delivery in ipairs(claimed) do delivery.others_due = others_due end
local reply = cjson.encode(claimed)
redis.call('SET', reply_key, reply, 'PX', math.ceil(lease_us / 1000))
return reply
