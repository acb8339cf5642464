-- Take back at once what a worker held whose process has exited, instead of when its leases end: jobs that it rendered or
-- prepared, deliveries, bulks.
-- ARGV: worker, maximum of attempts, ttl_us
-- Returns {how many jobs, deliveries and bulks were taken back, ids of jobs that ended, id, reason, id, reason, … of those
-- that returned to their queues}
local worker, max_attempts, ttl_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- For so long, in seconds, what the worker sent before its end, and Redis reads only now, changes nothing.
local DEAD_SECONDS = 60
local taken_back = 0

local function held(key) return redis.call('HGET', key, 'held_by') == worker end

-- The next preparer takes it as lost, and has no other lost job beside it.
local function end_preparations(set)
  for _, id in ipairs(redis.call('ZRANGE', P .. set, 0, -1)) do
    if held(job_key(id)) then
      redis.call('HDEL', job_key(id), 'held_by')
      redis.call('ZADD', P .. set, integer(now()), id)
      taken_back = taken_back + 1
    end
  end
end

local function end_delivery_leases(queue)
  for _, id in ipairs(redis.call('ZRANGE', P .. 'delivery_leases:' .. queue, 0, -1)) do
    if held(P .. 'delivery:' .. id) then
      end_delivery_lease(id, string.match(queue, '^(%S+) '), queue)
      schedule_delivery(id, queue, now())
      taken_back = taken_back + 1
    end
  end
end

local function end_bulk_leases()
  for _, id in ipairs(redis.call('ZRANGE', P .. 'bulk_leases', 0, -1)) do
    if held(bulk_key(id)) then
      redis.call('HDEL', bulk_key(id), 'leased', 'held_by')
      redis.call('ZREM', P .. 'bulk_leases', id)
      schedule_bulk(id, now())
      taken_back = taken_back + 1
    end
  end
end

redis.call('HSET', P .. 'worker:' .. worker, 'dead', 1)
redis.call('EXPIRE', P .. 'worker:' .. worker, DEAD_SECONDS)
for _, id in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  if redis.call('HGET', job_key(id), 'worker') == worker and take_from_dead_worker(id, max_attempts, ttl_us) then
    taken_back = taken_back + 1
  end
end
forget_worker(worker)
end_preparations('preparing')
end_preparations('preparing_again')
for _, queue in ipairs(redis.call('ZRANGE', P .. 'delivery_queues', 0, -1)) do end_delivery_leases(queue) end
end_bulk_leases()
return {taken_back, ended_jobs, returned_jobs}
