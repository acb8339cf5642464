-- Take back at once what a worker held whose process has exited, instead of when its leases end.
-- ARGV: worker, maximum of attempts, ttl_us
-- Returns {taken back, ids of jobs that ended, id, reason, id, reason, … of those that returned to their queues}
local worker, max_attempts, ttl_us = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- For so long, in seconds, what the worker sent before its end, and Redis reads only now, changes nothing.
local DEAD_SECONDS = 60
local taken_back = 0
redis.call('HSET', P .. 'worker:' .. worker, 'dead', 1)
redis.call('EXPIRE', P .. 'worker:' .. worker, DEAD_SECONDS)
for _, id in ipairs(redis.call('ZRANGE', P .. 'leases', 0, -1)) do
  if redis.call('HGET', job_key(id), 'worker') == worker and take_from_dead_worker(id, max_attempts, ttl_us) then
    taken_back = taken_back + 1
  end
end
forget_worker(worker)
return {taken_back, ended_jobs, returned_jobs}
