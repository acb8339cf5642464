-- Accept a job.
-- ARGV: id, queue_limit, Idempotency-Key (or none), digest of the body, direct call that waits for it (or none), whether
-- that was sent before (0 | 1), time within which it must be started (us; 0: any), submits a minute, images a day (of
-- all limits 0: none), then what the record is to hold: name, value, name, value, …
-- A record with `retry_of` repeats that job, which must have failed, and which is repeated once only ('unknown': there is
-- nothing to repeat).
-- Returns {'accepted' | 'repeated' | 'conflict' | 'unknown' | 'full' | 'too_fast' | 'day_used_up', id, idle workers, then what the
-- caller has used up of its limits: until when it is within its rate again (us from now), images of today, until when
-- that is (us from now)}
local id, limit, key, digest, call, is_resent = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
local start_within_us = tonumber(ARGV[7])
local rate, most_images = tonumber(ARGV[8]), tonumber(ARGV[9])
local FIRST_FIELD = 10
local order = {}
for i = FIRST_FIELD, #ARGV, 2 do order[ARGV[i]] = ARGV[i + 1] end
local caller, lane = order.caller, order.lane

local function idle() return is_paused() and 0 or redis.call('SCARD', P .. 'idle:' .. order.model) end

-- What the caller has used up of its limits by time. Whoever has none is not counted.
local MINUTE_US = 60 * SECOND_US
local time, is_counted = now(), rate > 0 or most_images > 0
local today, pause_us = math.floor(time / DAY_US), rate > 0 and math.floor(MINUTE_US / rate) or 0
local spent = is_counted and redis.call('HMGET', P .. 'spent:' .. caller, 'busy_until_us', 'day', 'images') or {}
local busy_us = math.max(0, tonumber(spent[1] or 0) - time)
local images = tonumber(spent[2] or 0) == today and tonumber(spent[3]) or 0

local function spend()
  local name = P .. 'spent:' .. caller
  busy_us, images = busy_us + pause_us, images + tonumber(order.images)
  redis.call('HSET', name, 'busy_until_us', whole(time + busy_us), 'day', today, 'images', images)
  redis.call('PEXPIRE', name, DAY_US / 1000)
end

local function answer(verdict, job, idle_workers)
  return {verdict, job, idle_workers, busy_us, images, (today + 1) * DAY_US - time}
end

-- The same call again, because its answer was lost.
if redis.call('EXISTS', job_key(id)) == 1 then return answer('accepted', id, idle()) end

if order.retry_of then
  local failed = redis.call('HMGET', job_key(order.retry_of), 'state', 'retried_as')
  if failed[2] and redis.call('EXISTS', job_key(failed[2])) == 1 then return answer('repeated', failed[2], 0) end
  if failed[1] ~= 'failed' then return answer('unknown', '', 0) end
end

local idempotency = P .. 'idempotency:' .. caller .. ':' .. key
if key ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local first = cjson.decode(known)
    return answer(first.digest == digest and 'repeated' or 'conflict', first.id, 0)
  end
end

-- The job of an equal direct call with which this one goes on: nobody waits for it any more, or this one is that call,
-- sent again.
local function find_equal(direct)
  local left = redis.call('ZREVRANGEBYSCORE', direct, whole(now()), '(0', 'LIMIT', 0, 1)[1]
  return left or is_resent and redis.call('ZREVRANGE', direct, 0, 0)[1]
end

local function join(direct, equal)
  redis.call('SET', P .. 'joined:' .. call, equal, 'PX', 60000)
  redis.call('SADD', P .. 'calls:' .. equal, call)
  if redis.call('HGET', job_key(equal), 'state') == 'completed' then
    redis.call('ZADD', direct, -1, equal)
  else
    hold_call(equal, direct)
  end
end

-- With an Idempotency-Key the caller has said how it asks again.
local direct = call ~= '' and key == '' and P .. 'direct:' .. caller .. ':' .. digest
local joined = direct and redis.call('GET', P .. 'joined:' .. call)
if joined then return answer('repeated', joined, 0) end
local equal = direct and find_equal(direct)
if equal then
  join(direct, equal)
  return answer('repeated', equal, 0)
end

local waiting_jobs = tonumber(redis.call('HGET', P .. 'waiting_count', caller) or 0)
if limit > 0 and waiting_jobs >= limit then return answer('full', '', 0) end
if busy_us + pause_us > MINUTE_US then return answer('too_fast', '', 0) end
if most_images > 0 and images + tonumber(order.images) > most_images then return answer('day_used_up', '', 0) end
if is_counted then spend() end

local turn = next_turn(lane, caller, tonumber(order.cost))
redis.call('HSET', job_key(id), 'state', 'created', 'sequence', 1, 'attempt', 0, 'fence', 0, 'step', 0, 'turn', turn,
  'created_us', whole(time), unpack(ARGV, FIRST_FIELD))
if key ~= '' then
  redis.call('HSET', job_key(id), 'idempotency', idempotency)
  redis.call('SET', idempotency, cjson.encode({id = id, digest = digest}))
end
if direct then
  redis.call('HSET', job_key(id), 'direct', direct)
  redis.call('SADD', P .. 'calls:' .. id, call)
  hold_call(id, direct)
end
if order.retry_of then redis.call('HSET', job_key(order.retry_of), 'retried_as', id) end
if order.hint and not is_unprepared(lane) then leave_to_preferred(id) end
if start_within_us > 0 then
  redis.call('HSET', job_key(id), 'start_by_us', whole(time + start_within_us))
  redis.call('ZADD', P .. 'start_by', whole(time + start_within_us), id)
end
redis.call('ZADD', P .. 'jobs', whole(time), id)
redis.call('ZADD', P .. 'jobs:' .. caller, whole(time), id)
redis.call('HINCRBY', P .. 'waiting_count', caller, 1)
redis.call('HINCRBY', P .. 'totals', 'jobs:created:', 1)
stand_in_line(id, turn, lane, order.model, whole(time))
if not order.solo and not is_unprepared(lane) then redis.call('ZADD', mates_key(order.batch_key, order.priority), turn, id) end
announce(id, 'created', 1)
if not is_unprepared(lane) then return answer('accepted', id, idle()) end
redis.call('PUBLISH', P .. 'unprepared', '')
return answer('accepted', id, 0)
