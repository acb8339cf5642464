-- Give a preparer jobs that are not prepared yet, under a lease: one that was lost with its preparer, then the first in fair
-- order. While others wait, a caller has at most half of all preparations: its image hosts may be slow.
-- ARGV: maximum of jobs, lease_us, maximum of attempts, ttl_us, the id of the preparer's process, then callers that hold their
-- share of this preparer and are skipped
-- Returns {their ids, the ids of jobs that ended instead}
local max_jobs, lease_us, max_attempts, ttl_us = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local process, claimed, has_its_share = ARGV[5], {}, {}
for i = 6, #ARGV do has_its_share[ARGV[i]] = true end

local function lease(id, set)
  take_from_queue(id, redis.call('HGET', job_key(id), 'queue'))
  if redis.call('HINCRBY', job_key(id), 'preparation_attempts', 1) > max_attempts then
    finish_waiting(id, {'code', 'preparation_failed',
      'error', 'The preparation of the job was attempted ' .. max_attempts .. ' times and never finished.'}, ttl_us)
    return
  end
  redis.call('HSET', job_key(id), 'held_by', process)
  redis.call('ZADD', P .. set, integer(now() + lease_us), id)
  redis.call('HINCRBY', P .. 'preparing_count', redis.call('HGET', job_key(id), 'caller'), 1)
  claimed[#claimed + 1] = id
end

-- A lost job may have killed its preparer and with it all jobs beside it. Two lost jobs are never prepared together, so
-- that only one that kills again and again is lost again and again.
local function first_lost()
  local time = integer(now())
  if redis.call('ZCOUNT', P .. 'preparing_again', '(' .. time, '+inf') > 0 then return end
  return redis.call('ZRANGEBYSCORE', P .. 'preparing_again', '-inf', time, 'LIMIT', 0, 1)[1]
    or redis.call('ZRANGEBYSCORE', P .. 'preparing', '-inf', time, 'LIMIT', 0, 1)[1]
end

-- True if its caller may have one more of all `preparations` that are under way.
local function is_within_share(id, preparations)
  local own = redis.call('HGET', P .. 'preparing_count', redis.call('HGET', job_key(id), 'caller'))
  return 2 * (tonumber(own or 0) + 1) <= preparations + 1
end

-- The first job whose caller is within its share, among so many that all active callers are seen; else the first of those
-- that this preparer may have.
local function first_of(queue)
  local first = redis.call('ZRANGE', P .. 'queue:' .. queue, 0, 15, 'WITHSCORES')
  local preparations = redis.call('ZCARD', P .. 'preparing') + redis.call('ZCARD', P .. 'preparing_again')
  local other, its_vstart
  for i = 1, #first, 2 do
    if not has_its_share[redis.call('HGET', job_key(first[i]), 'caller')] then
      if is_within_share(first[i], preparations) then return first[i], first[i + 1] end
      if not other then other, its_vstart = first[i], first[i + 1] end
    end
  end
  return other, its_vstart
end

local function lease_first(priority)
  local queue = 'unprepared:' .. priority
  local id, vstart = first_of(queue)
  if not id then return false end
  advance_vclock(queue, tonumber(vstart))
  lease(id, 'preparing')
  return true
end

local lost = first_lost()
while lost and #claimed < max_jobs do
  lease(lost, 'preparing_again')
  lost = first_lost()
end
for _, priority in ipairs(priority_order('preparations')) do
  while #claimed < max_jobs and lease_first(priority) do end
end
return {claimed, ended_jobs}
