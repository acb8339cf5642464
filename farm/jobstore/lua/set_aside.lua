-- Set jobs of a paused caller aside, among so many of a queue. Any that are missed a claim sets aside when they are first.
-- ARGV: caller, queue, first position, count
-- Returns {how many were looked at, how many were set aside}
local caller, queue, first, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not is_group_paused('caller', caller) then return {0, 0} end
local jobs, moved = redis.call('ZRANGE', P .. 'queue:' .. queue, first, first + count - 1, 'WITHSCORES'), 0
for i = 1, #jobs, 2 do
  if redis.call('HGET', job_key(jobs[i]), 'caller') == caller then
    set_aside(jobs[i], jobs[i + 1], queue, caller)
    moved = moved + 1
  end
end
return {#jobs / 2, moved}
