-- Pauses: of the whole farm, or of a group of jobs: of a model, a priority or a caller. What was taken before goes on.
--
-- Models and priorities have queues of their own, which a claim skips. The jobs of a paused caller stand among those of
-- others: they are set aside, so that a claim need not pass over them.

-- True if no worker may take anything.
local function is_paused() return redis.call('EXISTS', P .. 'paused') == 1 end

-- `kind` is 'model', 'priority' or 'caller'.
local function is_group_paused(kind, name) return redis.call('HEXISTS', P .. 'paused_groups', kind .. ':' .. name) == 1 end

-- The waiting jobs of a paused caller that are ready for a GPU.
local function paused_jobs_key(caller) return P .. 'paused_jobs:' .. caller end

-- Set a waiting job of a paused caller aside. It still counts as waiting, and stays in the index by age.
local function set_aside(id, vstart, queue, caller)
  local job = redis.call('HMGET', job_key(id), 'batch_key', 'priority')
  redis.call('ZREM', P .. 'queue:' .. queue, id)
  redis.call('ZREM', batch_candidates_key(job[1], job[2]), id)
  redis.call('ZADD', paused_jobs_key(caller), vstart, id)
end

-- A caller goes on in a queue at the virtual end of its claimed jobs: it pays for none that were set aside.
local function refund_paused(queue, caller)
  local vfinish = redis.call('ZSCORE', P .. 'claimed_vfinish:' .. queue, caller)
  if vfinish then
    redis.call('ZADD', P .. 'accepted_vfinish:' .. queue, vfinish, caller)
  else
    redis.call('ZREM', P .. 'accepted_vfinish:' .. queue, caller)
  end
end

-- Put up to `count` jobs that were set aside back into their queues, after what their caller has had by now, or in front if
-- they came back from a worker. Returns true if there are more.
local function bring_back(caller, count)
  local jobs = redis.call('ZRANGE', paused_jobs_key(caller), 0, count - 1, 'WITHSCORES')
  for i = 1, #jobs, 2 do
    local id, vstart = jobs[i], tonumber(jobs[i + 1])
    local job = redis.call('HMGET', job_key(id), 'queue', 'cost')
    redis.call('ZREM', paused_jobs_key(caller), id)
    if vstart >= 0 then
      vstart = next_vstart(job[1], caller, tonumber(job[2]))
      redis.call('HSET', job_key(id), 'vstart', vstart)
    end
    enqueue(id, vstart)
  end
  return redis.call('EXISTS', paused_jobs_key(caller)) == 1
end
