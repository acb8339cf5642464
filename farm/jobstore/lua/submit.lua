-- Accept a job.
-- ARGV: id, caller, endpoint, model, priority, batch_key, cost, images, request, queue_limit, idempotency key, body digest,
-- dialect, inline (0 | 1), webhook (its URL, or none), receiver, states to tell it of (comma-separated)
-- Returns {'accepted' | 'repeated' | 'conflict' | 'full', id, idle workers}
local id, caller, endpoint, model, priority, batch_key = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local cost, images, request, limit, key, digest = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12]
local dialect, inline, webhook, receiver, events = ARGV[13], ARGV[14], ARGV[15], ARGV[16], ARGV[17]

-- The same call again, because its answer was lost.
if redis.call('EXISTS', job_key(id)) == 1 then return {'accepted', id, redis.call('SCARD', P .. 'idle:' .. model)} end

local idempotency = P .. 'idempotency:' .. caller .. ':' .. key
if key ~= '' then
  local known = redis.call('GET', idempotency)
  if known then
    local first = cjson.decode(known)
    return {first.digest == digest and 'repeated' or 'conflict', first.id, 0}
  end
end

if tonumber(redis.call('HGET', P .. 'waiting_count', caller) or 0) >= limit then return {'full', '', 0} end

local key_of_job, time, lane = job_key(id), whole(now()), model .. ':' .. priority
local turn = next_turn(lane, caller, tonumber(cost))
redis.call('HSET', key_of_job, 'state', 'created', 'sequence', 1, 'caller', caller, 'endpoint', endpoint, 'model', model,
  'priority', priority, 'batch_key', batch_key, 'cost', cost, 'turn', turn, 'images', images, 'request', request, 'attempt', 0,
  'fence', 0, 'step', 0, 'created_us', time, 'dialect', dialect)
if inline == '1' then redis.call('HSET', key_of_job, 'inline', 1) end
if webhook ~= '' then
  redis.call('HSET', key_of_job, 'webhook', webhook, 'receiver', receiver, 'webhook_events', events)
end
if key ~= '' then
  redis.call('HSET', key_of_job, 'idempotency', idempotency)
  redis.call('SET', idempotency, cjson.encode({id = id, digest = digest}))
end
redis.call('ZADD', P .. 'jobs', time, id)
redis.call('ZADD', P .. 'jobs:' .. caller, time, id)
redis.call('HINCRBY', P .. 'waiting_count', caller, 1)
redis.call('HINCRBY', P .. 'totals', 'jobs:created:', 1)
stand_in_line(id, turn, lane, time)
redis.call('ZADD', P .. 'mates:' .. batch_key, turn, id)
announce(id, 'created', 1)
return {'accepted', id, redis.call('SCARD', P .. 'idle:' .. model)}
