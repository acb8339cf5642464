-- Finished jobs whose time to be kept is over, for whoever asks to remove them. They come again when that failed.
-- ARGV: count, after how long they come again (us)
-- Returns their ids
local ids = redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', whole(now()), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do redis.call('ZADD', P .. 'expiry', whole(now() + ARGV[2]), id) end
return ids
