-- Record the schema of a version that starts, if it is newer than what was recorded, and works beside that.
-- ARGV: number, the oldest beside which it works
-- Returns what was recorded before, in this form
local number, oldest = tonumber(ARGV[1]), tonumber(ARGV[2])
local found = redis.call('HMGET', P .. 'schema', 'number', 'oldest')
local is_empty = not found[1] and redis.call('EXISTS', P .. 'jobs') == 0
local before, oldest_before = tonumber(found[1] or 0), tonumber(found[2] or 0)
if is_empty then before, oldest_before = number, oldest end
if is_empty or (before >= oldest and number > before) then
  redis.call('HSET', P .. 'schema', 'number', number, 'oldest', oldest)
end
return {before, oldest_before}
