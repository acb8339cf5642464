-- Take back what dead workers held, end what is overdue or abandoned, enqueue delayed jobs whose delay is over and those of
-- callers that are paused no longer, and remove dead workers. Any process may do this, any number of times.
-- ARGV: hold (1: heartbeats cannot be judged, Redis has just started or its clock has leapt), maximum of attempts, ttl_us,
-- silence_us (after which a worker is dead), render_us
-- Returns {taken back, 1 if there is more to do than one call may, ids of jobs that ended, id, reason, id, reason, … of those
-- that returned to their queues}
local hold, max_attempts, ttl_us, silence_us = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local render_us = tonumber(ARGV[5])
local AT_ONCE = 200
local taken_back, more = 0, 0

-- Put up to `count` jobs that were set aside back into their queues, after what their caller has had by now, or in front if
-- they came back from a worker. Returns true if there are more.
local function bring_back(caller, count)
  local jobs = redis.call('ZRANGE', paused_jobs_key(caller), 0, count - 1, 'WITHSCORES')
  for i = 1, #jobs, 2 do
    local id, vstart = jobs[i], tonumber(jobs[i + 1])
    redis.call('ZREM', paused_jobs_key(caller), id)
    local job = redis.call('HMGET', job_key(id), 'queue', 'cost', 'state')
    -- A process of an older version may have ended it, which knows nothing of jobs that are set aside.
    if job[3] == 'created' then
      if vstart >= 0 then
        vstart = next_vstart(job[1], caller, tonumber(job[2]))
        redis.call('HSET', job_key(id), 'vstart', vstart)
      end
      enqueue(id, vstart)
    end
  end
  return redis.call('EXISTS', paused_jobs_key(caller)) == 1
end

-- Remove and return the ids that are due in a set ordered by time.
local function pop_due(name)
  local ids = redis.call('ZRANGEBYSCORE', P .. name, '-inf', integer(now()), 'LIMIT', 0, AT_ONCE)
  if #ids == AT_ONCE then more = 1 end
  if #ids > 0 then redis.call('ZREM', P .. name, unpack(ids)) end
  return ids
end

-- Bound how far ahead a deadline lies: if the clock was set back, a dead worker's lease would last that much longer.
local function shorten(name, max_us)
  local latest = integer(now() + max_us)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. name, '(' .. latest, '+inf', 'LIMIT', 0, AT_ONCE)) do
    redis.call('ZADD', P .. name, latest, id)
  end
end

for _, name in ipairs({'leases', 'preparing', 'preparing_again'}) do shorten(name, math.max(silence_us, 60 * SECOND_US)) end
shorten('workers', 0)
shorten('render_deadline', render_us)
shorten('abandon_deadline', 2 * RECONNECT_US)
shorten('delayed', SECOND_US * 2 ^ max_attempts)

if not hold then
  for _, id in ipairs(pop_due('leases')) do
    if take_from_dead_worker(id, max_attempts, ttl_us) then taken_back = taken_back + 1 end
  end
end

-- End a run that lasts too long, whether or not its worker lives. Which job of a batch is to blame is unknown: as after a
-- crash, those of several are rendered alone from now on, and the attempt does not count.
local function time_out(id)
  local job = redis.call('HMGET', job_key(id), 'state', 'batch_peers', 'stop_code')
  if job[1] ~= 'processing' then return end
  redis.call('PUBLISH', P .. 'stop', id)
  local batch_peers = tonumber(job[2])
  if job[3] then
    finish_stopped(id, job[3], ttl_us)
  elseif batch_peers == 0 then
    finish(id, 'failed', {'code', 'render_timeout', 'error', 'Rendering took longer than this farm allows.'}, ttl_us)
  else
    isolate(id, batch_peers)
    drop_fence(id)
    take_back(id, 'render_timeout', 0)
  end
end

for _, id in ipairs(pop_due('render_deadline')) do
  -- A run that only a leap of the clock made long gets its whole time again.
  if hold then redis.call('ZADD', P .. 'render_deadline', integer(now() + render_us), id) else time_out(id) end
end

for _, id in ipairs(pop_due('start_deadline')) do
  if redis.call('HGET', job_key(id), 'state') == 'created' then finish_late(id, ttl_us) end
end

-- End a job whose client did not reconnect, if it has not ended, and if no client was told where its image will be.
local function abandon(id)
  local job = redis.call('HMGET', job_key(id), 'direct_key', 'kept_after_call')
  if job[1] then forget_direct_call(id, job[1]) end
  if not job[2] then stop(id, 'client_disconnected', ttl_us) end
end

if not hold then
  for _, id in ipairs(pop_due('abandon_deadline')) do abandon(id) end
end

for _, id in ipairs(pop_due('delayed')) do
  if redis.call('HGET', job_key(id), 'state') == 'created' then enqueue_at_front(id) end
end

for _, caller in ipairs(redis.call('SMEMBERS', P .. 'resuming')) do
  if bring_back(caller, AT_ONCE) then more = 1 else redis.call('SREM', P .. 'resuming', caller) end
end

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', integer(now() - silence_us), 'LIMIT', 0, 50)) do
  forget_worker(worker)
  redis.call('DEL', P .. 'worker:' .. worker)
end
return {taken_back, more, ended_jobs, returned_jobs}
