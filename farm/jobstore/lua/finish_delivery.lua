-- Record an attempt at a delivery, and what follows from it.
-- ARGV: id, fence, outcome ('delivered' | 'waiting' | 'failed' | 'dropped'), attempt (JSON, or none), pause_us, attempts kept,
-- after how many microseconds it is late
-- Returns true if a courier would find a delivery now
local id, fence, outcome, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local pause_us, max_kept, late_us = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local key = P .. 'delivery:' .. id
local delivery = redis.call('HMGET', key, 'caller', 'receiver', 'fence', 'state', 'reported_fence', 'attempt_again',
  'event', 'is_manual', 'created_us', 'is_late')
if not delivery[1] then return is_any_delivery_due() end
local is_about_end = (delivery[7] == 'completed' or delivery[7] == 'failed') and not delivery[8]

-- Count a delivery about the end of a job, once, that does not arrive in time.
local function count_if_late(arrives_us)
  if is_about_end and not delivery[10] and arrives_us - delivery[9] > late_us then
    redis.call('HSET', key, 'is_late', 1)
    count_total('webhooks_late')
  end
end
local caller, queue, state = delivery[1], delivery_queue(delivery[1], delivery[2]), delivery[4]

local function record()
  -- The same call again, because its answer was lost.
  if delivery[5] and tonumber(delivery[5]) >= tonumber(fence) then return end
  redis.call('HSET', key, 'reported_fence', fence)

  if attempt ~= '' then
    local kept = redis.call('RPUSH', P .. 'delivery_attempts:' .. id, attempt)
    redis.call('LTRIM', P .. 'delivery_attempts:' .. id, -max_kept, -1)
    if kept <= max_kept then count_delivery_bytes(id, delivery[1], #attempt) end
    redis.call('HINCRBY', key, 'attempts_made', 1)
    count_total('webhook_attempts:' .. (outcome == 'waiting' and 'retry' or outcome))
    observe('webhook_attempt_seconds', '', cjson.decode(attempt).seconds)
  end
  if outcome == 'delivered' then
    redis.call('HDEL', P .. 'delivery_failures', queue)
  elseif attempt ~= '' then
    redis.call('HINCRBY', P .. 'delivery_failures', queue, 1)
  end

  -- Another courier has it by now, and will report; but what was delivered was delivered.
  if delivery[3] ~= fence and outcome ~= 'delivered' then return end
  end_delivery_lease(id, caller, queue)
  if state ~= 'waiting' then
    schedule_queue(queue, true)
    return
  end
  -- It was requested by hand during the attempt.
  if delivery[6] and outcome ~= 'delivered' then
    redis.call('HDEL', key, 'attempt_again')
    redis.call('HSET', key, 'attempts_made', 0)
    schedule_delivery(id, queue, now())
    return
  end
  if outcome == 'waiting' then
    count_if_late(now() + pause_us)
    schedule_delivery(id, queue, now() + pause_us)
    return
  end
  redis.call('ZREM', P .. 'delivery_queue:' .. queue, id)
  redis.call('HSET', key, 'state', outcome)
  redis.call('HDEL', key, 'due_us', 'is_manual', 'attempt_again')
  count_total('webhooks_waiting', -1)
  count_total('webhook_deliveries:' .. outcome)
  if outcome == 'failed' then count_if_late(math.huge) end
  if outcome == 'delivered' and is_about_end then
    count_if_late(now())
    observe('webhook_lag_seconds', '', (now() - delivery[9]) / SECOND_US)
  end
  schedule_queue(queue, true)
  -- It says nothing of the receiver, whose failures are known for as long as its queue has deliveries.
  if outcome == 'dropped' and not redis.call('ZSCORE', P .. 'delivery_queues', queue) then
    redis.call('HDEL', P .. 'delivery_failures', queue)
  end
end

record()
return is_any_delivery_due()
