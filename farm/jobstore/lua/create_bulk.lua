-- Accept a bulk.
-- ARGV: id, Idempotency-Key (or none), digest of the body, window_us, how long it is kept after that (us), how long the
-- caller's oldest may have been kept (us), the id of its file, most bulks of a caller, and most that it may create in a minute,
-- how many bytes it may keep (0: any), then its record: name, value, name, value, …
-- Returns {verdict, id}: 'accepted', 'repeated', 'conflict', 'unknown' (its file is gone), 'full', or 'kept_too_much'; or
-- {'too_fast', the time until one more is allowed (us)}
local id, idempotency_key, digest = ARGV[1], ARGV[2], ARGV[3]
local window_us, kept_us, oldest_us, file = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local max_bulks, max_per_minute = tonumber(ARGV[8]), tonumber(ARGV[9])
local max_kept_bytes = tonumber(ARGV[10])
local FIRST_FIELD = 11
-- About what a record and its places in indexes take beside its texts.
local RECORD_OVERHEAD = 2000
local fields = {}
local bytes = RECORD_OVERHEAD
for i = FIRST_FIELD, #ARGV, 2 do
  fields[ARGV[i]] = ARGV[i + 1]
  bytes = bytes + #ARGV[i] + #ARGV[i + 1]
end
local time = now()

-- The same call again, because its answer was lost.
if redis.call('EXISTS', bulk_key(id)) == 1 then return {'accepted', id} end

local idempotency_record = P .. 'bulk_idempotency:' .. fields.caller .. ':' .. idempotency_key
local known = idempotency_key ~= '' and redis.call('GET', idempotency_record)
if known then
  local first = cjson.decode(known)
  return {first.digest == digest and 'repeated' or 'conflict', first.id}
end
if redis.call('HEXISTS', P .. 'bulk_file:' .. file, 'key') == 0 then return {'unknown', ''} end

local index = P .. 'bulks:' .. fields.caller
redis.call('ZREMRANGEBYSCORE', index, '-inf', integer(time - oldest_us))
if redis.call('ZCARD', index) >= max_bulks then return {'full', ''} end
local kept_bytes = tonumber(redis.call('HGET', P .. 'kept_bytes', fields.caller) or 0)
if max_kept_bytes > 0 and kept_bytes + bytes > max_kept_bytes then return {'kept_too_much', ''} end
local wait_us = count_act(fields.caller, 'bulks_until_us', max_per_minute)
if wait_us > 0 then return {'too_fast', integer(wait_us)} end

local kept_ms = math.ceil((window_us + kept_us) / 1000)
-- Its bytes stay in storage, even if the file is deleted while lines of it are still to be read.
redis.call('HSET', P .. 'bulk_file:' .. file, 'used', 1)
redis.call('HSET', bulk_key(id), 'state', 'validating', 'fence', 0, 'created_us', integer(time),
  'expires_us', integer(time + window_us), 'kept_until_us', integer(time + window_us + kept_us), unpack(ARGV, FIRST_FIELD))
redis.call('PEXPIRE', bulk_key(id), kept_ms)
redis.call('ZADD', P .. 'bulk_expiry', integer(time + 1000 * kept_ms), id)
count_bulk_bytes(id, fields.caller, bytes)
if idempotency_key ~= '' then
  redis.call('SET', idempotency_record, cjson.encode({id = id, digest = digest}), 'PX', kept_ms)
end
redis.call('ZADD', index, integer(time), id)
schedule_bulk(id, time)
return {'accepted', id}
