-- Accept a job.
-- ARGV: id, queue_limit, Idempotency-Key (or none), digest of the body, direct call that waits for it (or none), whether
-- that was sent before (0 | 1), time within which it must be started (us; 0: any), then what the record is to hold: name,
-- value, name, value, …
-- Returns {'accepted' | 'repeated' | 'conflict' | 'full', id, idle workers}
local id, limit, key, digest, call, is_resent = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
local start_within_us = tonumber(ARGV[7])
local FIRST_FIELD = 8
local order = {}
for i = FIRST_FIELD, #ARGV, 2 do order[ARGV[i]] = ARGV[i + 1] end
local caller, lane = order.caller, order.lane

local function idle() return redis.call('SCARD', P .. 'idle:' .. order.model) end

-- The same call again, because its answer was lost.
if redis.call('EXISTS', job_key(id)) == 1 then return {'accepted', id, idle()} end

local idempotency = P .. 'idempotency:' .. caller .. ':' .. key
if key ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local first = cjson.decode(known)
    return {first.digest == digest and 'repeated' or 'conflict', first.id, 0}
  end
end

-- The job of an equal direct call with which this one goes on: nobody waits for it any more, or this one is that call,
-- sent again.
local function find_equal(direct)
  local last = redis.call('ZREVRANGE', direct, 0, 0, 'WITHSCORES')
  if last[1] and (is_resent or tonumber(last[2]) > 0) then return last[1] end
end

local function join(direct, equal)
  redis.call('SET', P .. 'joined:' .. call, equal, 'PX', 60000)
  redis.call('SADD', P .. 'calls:' .. equal, call)
  local is_over = redis.call('HGET', job_key(equal), 'state') == 'completed'
  redis.call('ZADD', direct, is_over and -1 or 0, equal)
  if not is_over then redis.call('ZREM', P .. 'letting_go', equal) end
end

-- With an Idempotency-Key the caller has said how it asks again.
local direct = call ~= '' and key == '' and P .. 'direct:' .. caller .. ':' .. digest
local joined = direct and redis.call('GET', P .. 'joined:' .. call)
if joined then return {'repeated', joined, 0} end
local equal = direct and find_equal(direct)
if equal then
  join(direct, equal)
  return {'repeated', equal, 0}
end

if tonumber(redis.call('HGET', P .. 'waiting_count', caller) or 0) >= limit then return {'full', '', 0} end

local time = now()
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
  redis.call('ZADD', direct, 0, id)
end
if start_within_us > 0 then
  redis.call('HSET', job_key(id), 'start_by_us', whole(time + start_within_us))
  redis.call('ZADD', P .. 'start_by', whole(time + start_within_us), id)
end
redis.call('ZADD', P .. 'jobs', whole(time), id)
redis.call('ZADD', P .. 'jobs:' .. caller, whole(time), id)
redis.call('HINCRBY', P .. 'waiting_count', caller, 1)
redis.call('HINCRBY', P .. 'totals', 'jobs:created:', 1)
stand_in_line(id, turn, lane, order.model, whole(time))
if not order.solo and not is_unprepared(lane) then redis.call('ZADD', P .. 'mates:' .. order.batch_key, turn, id) end
announce(id, 'created', 1)
if not is_unprepared(lane) then return {'accepted', id, idle()} end
redis.call('PUBLISH', P .. 'unprepared', '')
return {'accepted', id, 0}
