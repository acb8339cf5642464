-- Add the counts of a process to the totals.
-- ARGV: process, number of this addition, field, by, field, by, …
local key = P .. 'counted:' .. ARGV[1]
-- The same call again, because its answer was lost.
if redis.call('GET', key) == ARGV[2] then return 0 end
redis.call('SET', key, ARGV[2], 'EX', 3600)
for i = 3, #ARGV, 2 do count_total(ARGV[i], ARGV[i + 1]) end
return 1
