-- Give a process the next bulk that is due, under a lease.
-- ARGV: lease_us
-- Returns {id, fence}, or nothing
local lease_us = tonumber(ARGV[1])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'bulk_due', '-inf', integer(now()), 'LIMIT', 0, 100)) do
  if redis.call('EXISTS', bulk_key(id)) == 1 then
    redis.call('HSET', bulk_key(id), 'leased', 1)
    redis.call('ZADD', P .. 'bulk_due', integer(now() + lease_us), id)
    return {id, redis.call('HINCRBY', bulk_key(id), 'fence', 1)}
  end
  redis.call('ZREM', P .. 'bulk_due', id)
end
