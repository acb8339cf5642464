-- Write the record of a file of bulks, which Redis deletes in its time, and forget those of its caller that are gone.
-- ARGV: id, caller, created_us, expires_us, how many of the oldest are looked at, then its record: name, value, name, value, …
local id, created_us, expires_us, looked_at = ARGV[1], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local index = P .. 'bulk_files:' .. ARGV[2]
redis.call('HSET', P .. 'bulk_file:' .. id, unpack(ARGV, 6))
redis.call('PEXPIRE', P .. 'bulk_file:' .. id, math.max(1, math.floor((expires_us - now()) / 1000)))
redis.call('ZADD', index, created_us, id)
for _, oldest in ipairs(redis.call('ZRANGE', index, 0, looked_at - 1)) do
  if redis.call('EXISTS', P .. 'bulk_file:' .. oldest) == 0 then redis.call('ZREM', index, oldest) end
end
