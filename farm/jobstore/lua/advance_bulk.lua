-- Record that lines of a bulk have been dealt with, up to a place in its file: each is a job by now, or cannot become one.
-- ARGV: id, fence, bytes read, last line read, then line, error (JSON), line, error, … of those that cannot
-- Returns 1, or 0 if the fence is stale
local id, fence = ARGV[1], ARGV[2]
if not holds_bulk(id, fence) then return 0 end
for i = 5, #ARGV, 2 do
  local is_new = redis.call('HSETNX', P .. 'bulk_line_errors:' .. id, ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', bulk_key(id), 'failed', is_new)
end
if #ARGV > 4 then
  local left_us = tonumber(redis.call('HGET', bulk_key(id), 'kept_until_us')) - now()
  redis.call('PEXPIRE', P .. 'bulk_line_errors:' .. id, math.ceil(left_us / 1000))
end
redis.call('HSET', bulk_key(id), 'offset', ARGV[3], 'line', ARGV[4])
return 1
