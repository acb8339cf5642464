-- Accept a job.
-- ARGV: id, queue limit, Idempotency-Key (or none), digest of the body, direct call that waits for it (or none), time
-- within which it must be started (us; 0: any), submits a minute, images a day, bytes of waiting jobs, bytes of
-- all jobs that are kept (of all limits 0: none), then the record: name, value, name, value, …
-- A record with `retry_of` repeats that job, which must have failed, and which is repeated only once ('unknown': there is
-- nothing to repeat).
-- A record with `bulk` is a line of that bulk, as long as it takes lines.
-- Returns {verdict, id, idle workers, then the caller's usage: until when it is within its rate again (us from now), images
-- of today, until when that is (us from now)}. The verdict is 'accepted', 'repeated', 'conflict', 'unknown', 'full',
-- 'share_used_up', 'kept_too_much', 'too_fast', 'day_used_up' or 'bulk_ended'
local id, limit, idempotency_key, digest, call = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local start_within_us = tonumber(ARGV[6])
local rate, max_images = tonumber(ARGV[7]), tonumber(ARGV[8])
local max_bytes, max_kept_bytes = tonumber(ARGV[9]), tonumber(ARGV[10])
local FIRST_FIELD = 11
local fields = {}
for i = FIRST_FIELD, #ARGV, 2 do fields[ARGV[i]] = ARGV[i + 1] end
local caller, queue = fields.caller, fields.queue

local function idle_workers()
  local may_not_start = is_paused() or is_group_paused('model', fields.model) or is_group_paused('priority', fields.priority)
    or is_group_paused('caller', caller)
  return may_not_start and 0 or redis.call('SCARD', P .. 'idle_workers:' .. fields.model)
end

-- The caller's usage of its limits by time. It is not counted for callers without such limits.
local time, is_counted = now(), rate > 0 or max_images > 0
local today, pause_us = math.floor(time / DAY_US), rate > 0 and math.floor(MINUTE_US / rate) or 0
local usage = is_counted and redis.call('HMGET', P .. 'usage:' .. caller, 'busy_until_us', 'day', 'images') or {}
local busy_us = math.max(0, tonumber(usage[1] or 0) - time)
local images = tonumber(usage[2] or 0) == today and tonumber(usage[3]) or 0

local function count_usage()
  local key = P .. 'usage:' .. caller
  busy_us, images = busy_us + pause_us, images + tonumber(fields.images)
  redis.call('HSET', key, 'busy_until_us', integer(time + busy_us), 'day', today, 'images', images)
  redis.call('PEXPIRE', key, DAY_US / 1000)
end

local function answer(verdict, job, workers)
  return {verdict, job, workers, busy_us, images, (today + 1) * DAY_US - time}
end

-- The same call again, because its answer was lost.
if redis.call('EXISTS', job_key(id)) == 1 then return answer('accepted', id, idle_workers()) end

if fields.retry_of then
  local failed = redis.call('HMGET', job_key(fields.retry_of), 'state', 'retried_as')
  if failed[2] and redis.call('EXISTS', job_key(failed[2])) == 1 then return answer('repeated', failed[2], 0) end
  if failed[1] ~= 'failed' then return answer('unknown', '', 0) end
end

local idempotency_record = P .. 'idempotency:' .. caller .. ':' .. idempotency_key
if idempotency_key ~= '' then
  local known = redis.call('GET', idempotency_record)
  if known then
    local first = cjson.decode(known)
    return answer(first.digest == digest and 'repeated' or 'conflict', first.id, 0)
  end
end

-- The job of an equal direct call with which this one goes on: one whose result no call has received or waits for.
local function find_equal(direct)
  return redis.call('ZREVRANGEBYSCORE', direct, integer(now()), '(0', 'LIMIT', 0, 1)[1]
end

local function join(direct, equal)
  redis.call('SET', P .. 'joined_job:' .. call, equal, 'PX', 60000)
  redis.call('SADD', P .. 'waiting_calls:' .. equal, call)
  if redis.call('HGET', job_key(equal), 'state') == 'completed' then
    redis.call('ZADD', direct, -1, equal)
  else
    record_heartbeat(equal, direct)
  end
end

-- True while lines of the bulk may become jobs.
local function takes_lines(bulk_id)
  local bulk = redis.call('HMGET', bulk_key(bulk_id), 'state', 'ending')
  return bulk[1] == 'in_progress' and not bulk[2]
end

-- A caller with an Idempotency-Key has said how it asks again.
local direct = call ~= '' and idempotency_key == '' and P .. 'direct_calls:' .. caller .. ':' .. digest
local joined = direct and redis.call('GET', P .. 'joined_job:' .. call)
if joined then return answer('repeated', joined, 0) end
local equal = direct and find_equal(direct)
if equal then
  join(direct, equal)
  return answer('repeated', equal, 0)
end

if fields.bulk and not takes_lines(fields.bulk) then return answer('bulk_ended', '', 0) end
local waiting_jobs = tonumber(redis.call('HGET', P .. 'waiting_count', caller) or 0)
if limit > 0 and waiting_jobs >= limit then return answer('full', '', 0) end
local function exceeds(counter, maximum)
  return maximum > 0 and tonumber(redis.call('HGET', P .. counter, caller) or 0) + tonumber(fields.bytes) > maximum
end
if exceeds('waiting_bytes', max_bytes) then return answer('share_used_up', '', 0) end
if exceeds('kept_bytes', max_kept_bytes) then return answer('kept_too_much', '', 0) end
if busy_us + pause_us > MINUTE_US then return answer('too_fast', '', 0) end
if max_images > 0 and images + tonumber(fields.images) > max_images then return answer('day_used_up', '', 0) end
if is_counted then count_usage() end

local vstart = next_vstart(queue, caller, tonumber(fields.cost))
redis.call('HSET', job_key(id), 'state', 'created', 'sequence', 1, 'attempt', 0, 'fence', 0, 'step', 0, 'vstart', vstart,
  'created_us', integer(time), unpack(ARGV, FIRST_FIELD))
if idempotency_key ~= '' then
  redis.call('HSET', job_key(id), 'idempotency_key', idempotency_record)
  redis.call('SET', idempotency_record, cjson.encode({id = id, digest = digest}))
end
if direct then
  redis.call('HSET', job_key(id), 'direct_key', direct)
  redis.call('SADD', P .. 'waiting_calls:' .. id, call)
  record_heartbeat(id, direct)
end
if fields.retry_of then redis.call('HSET', job_key(fields.retry_of), 'retried_as', id) end
if fields.bulk then redis.call('SADD', bulk_open_key(fields.bulk), id) end
if fields.affinity and not is_unprepared(queue) then reserve_for_preferred_worker(id) end
if start_within_us > 0 then
  redis.call('HSET', job_key(id), 'start_deadline_us', integer(time + start_within_us))
  redis.call('ZADD', P .. 'start_deadline', integer(time + start_within_us), id)
end
redis.call('ZADD', P .. 'jobs', integer(time), id)
redis.call('ZADD', P .. 'jobs:' .. caller, integer(time), id)
if fields.dialect == 'wavespeed' then redis.call('ZADD', P .. 'jobs:' .. caller .. ':wavespeed', integer(time), id) end
count_waiting(caller, 1, fields.bytes)
count_kept(caller, fields.bytes)
count_total('jobs_accepted:' .. fields.model .. ':' .. fields.priority)
count_work(place_of_work('created', queue), fields.model, 1, fields.images, fields.cost)
enqueue(id, vstart)
publish_state(id, 'created', 1)
if not is_unprepared(queue) then return answer('accepted', id, idle_workers()) end
redis.call('PUBLISH', P .. 'unprepared', '')
return answer('accepted', id, 0)
