-- Give a process the next bulk that is due, under a lease: the first of a caller that no process works for, else the first.
-- ARGV: lease_us, how many are looked at, the id of the process, then callers that hold their share of it and are skipped
-- Returns {id, fence, the time}, or nothing
local lease_us, max_looked_at, process, has_its_share = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], {}
for i = 4, #ARGV do has_its_share[ARGV[i]] = true end

local function served_callers()
  redis.call('ZREMRANGEBYSCORE', P .. 'bulk_leases', '-inf', integer(now()))
  local served = {}
  for _, id in ipairs(redis.call('ZRANGE', P .. 'bulk_leases', 0, -1)) do
    served[redis.call('HGET', bulk_key(id), 'caller') or ''] = true
  end
  return served
end

local function next_due()
  local served, first = served_callers(), nil
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'bulk_due', '-inf', integer(now()), 'LIMIT', 0, max_looked_at)) do
    local caller = redis.call('HGET', bulk_key(id), 'caller')
    if not caller then
      redis.call('ZREM', P .. 'bulk_due', id)
    elseif not has_its_share[caller] then
      if not served[caller] then return id end
      first = first or id
    end
  end
  return first
end

-- Redis has deleted the records of these bulks: they no longer count for their callers' shares of the memory.
local function forget_expired()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'bulk_expiry', '-inf', integer(now()), 'LIMIT', 0, 100)) do
    local counted = redis.call('HGET', P .. 'bulk_bytes', id)
    if counted then
      counted = cjson.decode(counted)
      count_kept(counted.caller, -counted.bytes)
    end
    redis.call('HDEL', P .. 'bulk_bytes', id)
    redis.call('ZREM', P .. 'bulk_expiry', id)
  end
end

forget_expired()
local id = next_due()
if not id then return end
redis.call('HSET', bulk_key(id), 'leased', 1, 'held_by', process)
lease_bulk(id, lease_us)
return {id, redis.call('HINCRBY', bulk_key(id), 'fence', 1), integer(now())}
