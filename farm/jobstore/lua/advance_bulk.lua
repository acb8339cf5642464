-- Record that lines of a bulk have been dealt with, up to a place in its file: each is a job by now, or cannot become one.
-- ARGV: id, fence, bytes read, last line read, how many bytes its caller may keep (0: any), then line, error (JSON), line, error,
-- … of those that cannot
-- Returns 1, or 0 if the fence is stale, or -1, with nothing recorded, if there are errors and its caller keeps as much as it may
local id, fence, max_kept_bytes = ARGV[1], ARGV[2], tonumber(ARGV[5])
local FIRST_ERROR = 6
-- About what an error takes beside its text.
local ERROR_OVERHEAD = 100

-- Record the errors, and return what they take: a repeated call adds nothing.
local function add_errors()
  local bytes = 0
  for i = FIRST_ERROR, #ARGV, 2 do
    if redis.call('HSETNX', P .. 'bulk_line_errors:' .. id, ARGV[i], ARGV[i + 1]) == 1 then
      redis.call('HINCRBY', bulk_key(id), 'failed', 1)
      bytes = bytes + #ARGV[i + 1] + ERROR_OVERHEAD
    end
  end
  return bytes
end

if not holds_bulk(id, fence) then return 0 end
if #ARGV >= FIRST_ERROR then
  local bulk = redis.call('HMGET', bulk_key(id), 'caller', 'kept_until_us')
  local kept_bytes = tonumber(redis.call('HGET', P .. 'kept_bytes', bulk[1]) or 0)
  if max_kept_bytes > 0 and kept_bytes >= max_kept_bytes then return -1 end
  local bytes = add_errors()
  redis.call('HINCRBY', bulk_key(id), 'line_error_bytes', bytes)
  count_bulk_bytes(id, bulk[1], bytes)
  redis.call('PEXPIRE', P .. 'bulk_line_errors:' .. id, math.ceil((tonumber(bulk[2]) - now()) / 1000))
end
redis.call('HSET', bulk_key(id), 'offset', ARGV[3], 'line', ARGV[4])
return 1
