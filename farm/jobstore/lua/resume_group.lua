-- Resume a group of jobs. Those of a caller that were set aside return to their queues by and by, when reaping.
-- ARGV: kind ('model' | 'priority' | 'caller'), name, then every queue in which jobs may have been set aside
-- Returns 1, or 0 if the group is not paused
local kind, name = ARGV[1], ARGV[2]

-- A caller goes on in a queue at the virtual end of its claimed jobs: it pays for none that were set aside.
local function refund_paused(queue, caller)
  local vfinish = redis.call('ZSCORE', P .. 'claimed_vfinish:' .. queue, caller)
  if vfinish then
    redis.call('ZADD', P .. 'accepted_vfinish:' .. queue, vfinish, caller)
  else
    redis.call('ZREM', P .. 'accepted_vfinish:' .. queue, caller)
  end
end

if redis.call('HDEL', P .. 'paused_groups', kind .. ':' .. name) == 0 then return 0 end
if kind ~= 'caller' then return 1 end
for i = 3, #ARGV do refund_paused(ARGV[i], name) end
redis.call('SADD', P .. 'resuming', name)
return 1
