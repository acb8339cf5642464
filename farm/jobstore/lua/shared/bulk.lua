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

-- Count the end of a job that was a line of a bulk. With the last one, the bulk is looked at: at once, or when the
-- process that works on it gives it back.
local function finish_line(bulk, id, state)
  if redis.call('SREM', bulk_open_key(bulk), id) == 0 then return end
  redis.call('HINCRBY', bulk_key(bulk), state, 1)
  if redis.call('EXISTS', bulk_open_key(bulk)) == 1 then return end
  if redis.call('HEXISTS', bulk_key(bulk), 'leased') == 1 then
    redis.call('HSET', bulk_key(bulk), 'jobs_have_ended', 1)
  else
    schedule_bulk(bulk, now())
  end
end
