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
