-- Finished jobs whose retention is over, for a process that removes them. They come again if that fails, and not before
-- their end is delivered.
-- ARGV: maximum, after how long they come again (us)
-- Returns their ids
local expired = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', integer(now()), 'LIMIT', 0, ARGV[1])) do
  local is_undelivered = is_end_undelivered(id)
  if not is_undelivered then expired[#expired + 1] = id end
  redis.call('ZADD', P .. 'expiry', integer(now() + (is_undelivered and HOUR_US or ARGV[2])), id)
end
return expired
