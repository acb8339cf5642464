-- Bulks: files of requests whose lines become jobs, little by little.

local function bulk_key(id) return P .. 'bulk:' .. id end

-- The ids of a bulk's jobs that have not ended.
local function bulk_open_key(id) return P .. 'bulk_open:' .. id end

-- Have a bulk looked at by any process.
local function schedule_bulk(id, at)
  redis.call('ZADD', P .. 'bulk_due', integer(at), id)
  redis.call('PUBLISH', P .. 'bulk_due', '')
end

-- Give a process the bulk for this time. It is due again if that passes.
local function lease_bulk(id, lease_us)
  redis.call('ZADD', P .. 'bulk_due', integer(now() + lease_us), id)
  redis.call('ZADD', P .. 'bulk_leases', integer(now() + lease_us), id)
end

-- True if the process with this fence is the one that works on the bulk.
local function holds_bulk(id, fence) return redis.call('HGET', bulk_key(id), 'fence') == fence end

-- Count what a bulk takes for its caller's share of the memory, until its record has expired (`claim_bulk`).
local function count_bulk_bytes(id, caller, bytes)
  local counted = redis.call('HGET', P .. 'bulk_bytes', id)
  local total = bytes + (counted and cjson.decode(counted).bytes or 0)
  redis.call('HSET', P .. 'bulk_bytes', id, cjson.encode({caller = caller, bytes = total}))
  count_kept(caller, bytes)
end

-- Have a bulk looked at for something that has just happened to it: at once, or when the process that works on it, and may
-- not have seen that, gives it back.
local function look_at_bulk(id)
  if redis.call('HEXISTS', bulk_key(id), 'leased') == 1 then
    redis.call('HSET', bulk_key(id), 'look_again', 1)
  else
    schedule_bulk(id, now())
  end
end

-- Count the end of a job that was a line of a bulk. With the last one, the bulk is looked at.
local function finish_line(bulk, id, state)
  if redis.call('SREM', bulk_open_key(bulk), id) == 0 then return end
  redis.call('HINCRBY', bulk_key(bulk), state, 1)
  if redis.call('EXISTS', bulk_open_key(bulk)) == 0 then look_at_bulk(bulk) end
end
