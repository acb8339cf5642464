-- Finished jobs whose time to be kept is over, for whoever asks to remove them. They come again when that failed, and
-- not before their end is told.
-- ARGV: count, after how long they come again (us)
-- Returns their ids
local over = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', whole(now()), 'LIMIT', 0, ARGV[1])) do
  if is_told(id) then over[#over + 1] = id end
  redis.call('ZADD', P .. 'expiry', whole(now() + (is_told(id) and ARGV[2] or HOUR_US)), id)
end
return over
