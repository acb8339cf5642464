-- Give a worker the next batch: the job that is first in fair order, and waiting jobs that can share its batch. The policy is
-- that of `farm/domain/scheduling.py`.
-- ARGV: worker, nonce, lease_us, ttl_us, render_us (how long a run may last), maximum of images, batch key ('': any; else
-- nothing is given while a job with another key is first), '1' if it claims ahead (it renders, and is not idle without
-- jobs), count of models, model, …, then id, fence for each job it holds
-- Returns JSON {waiting, idle, deferred, jobs: [{id, fence, attempt, wait (s), alone, request, keeps_payload, origin}], ended: ids}
-- deferred: the first job is not for this worker now, because of what it renders or holds
local worker, nonce, lease_us, ttl_us, render_us = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local max_images, wanted_batch_key, claims_ahead = tonumber(ARGV[6]), ARGV[7], ARGV[8] == '1'
local FIRST_MODEL = 10
local LAST_MODEL = FIRST_MODEL + tonumber(ARGV[9]) - 1
local worker_key = P .. 'worker:' .. worker
local has_paused_groups = redis.call('EXISTS', P .. 'paused_groups') == 1

local function is_closed(kind, name) return has_paused_groups and is_group_paused(kind, name) end

-- The reply to a claim. It is stored without the requests, which are deleted with their jobs.
local function reply_with_requests(stored)
  local reply = cjson.decode(stored)
  local jobs = {}
  for _, job in ipairs(reply.jobs or {}) do
    local record = redis.call('HMGET', job_key(job.id), 'request', 'request_id', 'key_id', 'traceparent')
    job.request = record[1]
    job.origin = {request_id = record[2] or nil, key_id = record[3] or nil, traceparent = record[4] or nil}
    job.keeps_payload = redis.call('HEXISTS', job_key(job.id), 'redacted_request') == 0
    -- One that another worker ended meanwhile, and that was deleted, is gone.
    if job.request then jobs[#jobs + 1] = job end
  end
  reply.jobs = jobs[1] and jobs or nil
  reply.ended = ended_jobs[1] and ended_jobs or nil
  return cjson.encode(reply)
end

-- The same call again, because its answer was lost: the same jobs, not more of them.
if redis.call('HGET', worker_key, 'claim_nonce') == nonce then
  return reply_with_requests(redis.call('HGET', worker_key, 'claim_reply'))
end

-- The queues of several models have virtual clocks of their own. For callers to share a worker over all its models, each
-- worker has a virtual clock, too, and the virtual time up to which it has worked for each caller, in seconds.
local worker_vfinish = P .. 'worker_vfinish:' .. worker
local own = redis.call('HMGET', worker_key, 'vclock', 'safety')
local vclock, has_checker = tonumber(own[1] or 0), own[2] ~= 'off'

local function vfinish_of(caller) return math.max(vclock, tonumber(redis.call('ZSCORE', worker_vfinish, caller) or 0)) end

local function affinity_key(caller, affinity) return P .. 'affinity:' .. caller .. ':' .. affinity end

-- True if this worker would take a job at once when woken.
local function is_available(name, model)
  if redis.call('SISMEMBER', P .. 'idle_workers:' .. model, name) == 0 then return false end
  local facts = redis.call('HMGET', P .. 'worker:' .. name, 'state', 'draining')
  local seen_us = tonumber(redis.call('ZSCORE', P .. 'workers', name) or 0)
  return facts[1] == 'warm' and not facts[2] and seen_us > now() - lease_us
end

-- True if a job is reserved for another worker for the moment: that one took the last job with the same affinity.
local function is_reserved(model, caller, affinity, deadline_us)
  if not affinity or tonumber(deadline_us) <= now() then return false end
  local preferred = redis.call('GET', affinity_key(caller, affinity))
  return preferred and preferred ~= worker and is_available(preferred, model)
end

-- True if a worker of this model that has a safety checker is known: one that loads, drains or died may soon be replaced.
local checked_models = {}
local function has_worker_with_checker(model)
  if checked_models[model] == nil then
    checked_models[model] = false
    for _, name in ipairs(redis.call('ZRANGE', P .. 'workers', 0, -1)) do
      local facts = redis.call('HMGET', P .. 'worker:' .. name, 'safety', 'models')
      local serves = facts[2] and string.find(',' .. facts[2] .. ',', ',' .. model .. ',', 1, true)
      if serves and facts[1] and facts[1] ~= 'off' then checked_models[model] = true end
    end
  end
  return checked_models[model]
end

-- True if a job is to be checked for safety, and left to the workers that can.
local function is_for_checkers(model, unchecked) return not has_checker and not unchecked and has_worker_with_checker(model) end

local function is_late(start_deadline_us) return start_deadline_us and tonumber(start_deadline_us) <= now() end

-- The first job of a queue that this worker may have, its virtual start time, its age and its caller. Jobs past their
-- deadline end on the way, and those of a paused caller are set aside; if there are very many, that takes several claims.
local function first_of(model, priority)
  if is_closed('model', model) then return end
  local queue, passed_over = model .. ':' .. priority, 0
  for _ = 1, 100 do
    local first = redis.call('ZRANGE', P .. 'queue:' .. queue, passed_over, passed_over, 'WITHSCORES')
    if not first[1] then return end
    local job = redis.call('HMGET', job_key(first[1]), 'created_us', 'start_deadline_us', 'caller', 'affinity', 'affinity_deadline_us',
      'unchecked')
    if is_late(job[2]) then
      finish_late(first[1], ttl_us)
    elseif is_closed('caller', job[3]) then
      set_aside(first[1], first[2], queue, job[3])
    elseif is_for_checkers(model, job[6]) then
      passed_over = passed_over + 1
    elseif passed_over < POLICY.max_passed_over and is_reserved(model, job[3], job[4], job[5]) then
      passed_over = passed_over + 1
    else
      return first[1], tonumber(first[2]), tonumber(job[1]), job[3]
    end
  end
end

-- Those of the priorities that are not paused.
local function open_priorities(priorities)
  local open = {}
  for _, priority in ipairs(priorities) do
    if not is_closed('priority', priority) then open[#open + 1] = priority end
  end
  return open
end

-- Of the first jobs of the models that this worker serves: one that came back, else that of the caller for whom the worker
-- has done least, else the one that waits longest.
local function find_head()
  for _, priority in ipairs(open_priorities(priority_order('claims'))) do
    local head, model, vstart, vfinish, since
    for i = FIRST_MODEL, LAST_MODEL do
      local first, its_vstart, created, caller = first_of(ARGV[i], priority)
      if first then
        local its_vfinish = its_vstart < 0 and -1 or vfinish_of(caller)
        if not head or its_vfinish < vfinish or (its_vfinish == vfinish and created < since) then
          head, model, vstart, vfinish, since = first, ARGV[i], its_vstart, its_vfinish, created
        end
      end
    end
    if head then return head, model, vstart, priority, vfinish end
  end
end

-- Return how long a job waited, in seconds, and count it if it starts for the first time.
local function observe_wait(job)
  local seconds = (now() - job[1]) / SECOND_US
  if job[2] == '1' then observe('job_wait_seconds', ':' .. job[3] .. ':' .. job[4], seconds) end
  return seconds
end

-- True if a job must be rendered while its worker holds no other: it, and not another, is charged for a crash.
local function must_be_alone(id)
  local job = redis.call('HMGET', job_key(id), 'render_alone', 'attempt')
  return job[1] == '1' or tonumber(job[2] or 0) > 0
end

-- Seconds for a cost of 1, as measured: of the model's own jobs, else of all jobs, else as assumed.
local function pace_of(model)
  local known = redis.call('HMGET', P .. 'pace', model .. ':us', model .. ':cost')
  local us, cost = tonumber(known[1] or 0), tonumber(known[2] or 0)
  if cost > 0 then return us / 1e6 / cost end
  local sums = redis.call('HGETALL', P .. 'pace')
  for i = 1, #sums, 2 do
    if string.sub(sums[i], -3) == ':us' then us = us + sums[i + 1] else cost = cost + sums[i + 1] end
  end
  return cost > 0 and us / 1e6 / cost or POLICY.assumed_pace
end

local function start(id)
  local key = job_key(id)
  local alone = must_be_alone(id)
  dequeue(id)
  local wait = observe_wait(redis.call('HMGET', key, 'created_us', 'sequence', 'model', 'priority'))
  local fence = redis.call('INCR', P .. 'fence')
  local attempt = redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HSET', key, 'fence', fence, 'worker', worker, 'step', 0, 'started_us', integer(now()),
    'render_deadline_us', integer(now() + render_us))
  redis.call('ZADD', P .. 'leases', integer(now() + lease_us), id)
  redis.call('ZADD', P .. 'render_deadline', integer(now() + render_us), id)
  local job = redis.call('HMGET', key, 'queue', 'caller', 'vstart', 'cost', 'affinity', 'model')
  redis.call('ZADD', P .. 'claimed_vfinish:' .. job[1], tonumber(job[3]) + tonumber(job[4]), job[2])
  redis.call('ZADD', worker_vfinish, vfinish_of(job[2]) + tonumber(job[4]) * pace_of(job[6]), job[2])
  if job[5] then redis.call('SET', affinity_key(job[2], job[5]), worker, 'EX', POLICY.affinity_seconds) end
  transition(id, 'processing')
  return {id = id, fence = fence, attempt = attempt, wait = wait, alone = alone}
end

local function set_idle(is_idle)
  for i = FIRST_MODEL, LAST_MODEL do
    redis.call(is_idle and 'SADD' or 'SREM', P .. 'idle_workers:' .. ARGV[i], worker)
  end
end

local function waiting_jobs(model)
  local jobs = 0
  for _, priority in ipairs(open_priorities(POLICY.priorities)) do
    jobs = jobs + redis.call('ZCARD', P .. 'queue:' .. model .. ':' .. priority)
  end
  return jobs
end

-- Fill the batch with jobs of the same batch key that fit, no more than this worker's share while others are idle. Those of
-- other priorities only fill what its own leave free. A job that must be alone stays alone.
local function fill_batch(jobs, head, model, idle_workers)
  if jobs[1].alone then return end
  local job = redis.call('HMGET', job_key(head), 'render_alone', 'batch_key', 'images', 'priority')
  local capacity = max_images - tonumber(job[3])
  local share = math.ceil((waiting_jobs(model) + 1) / (idle_workers + 1))

  local function add_if_it_fits(id)
    if #jobs >= share or capacity <= 0 then return end
    local peer = redis.call('HMGET', job_key(id), 'images', 'start_deadline_us', 'caller', 'affinity', 'affinity_deadline_us',
      'unchecked')
    local images = tonumber(peer[1])
    if images <= capacity and not is_late(peer[2]) and not is_reserved(model, peer[3], peer[4], peer[5])
      and not must_be_alone(id) and not is_closed('caller', peer[3]) and not is_for_checkers(model, peer[6]) then
      capacity = capacity - images
      jobs[#jobs + 1] = start(id)
    end
  end

  local function add_of(priority)
    if #jobs >= share or capacity <= 0 then return end
    local candidates = redis.call('ZRANGE', batch_candidates_key(job[2], priority), 0, POLICY.max_candidates - 1)
    for _, id in ipairs(candidates) do add_if_it_fits(id) end
  end

  add_of(job[4])
  for _, priority in ipairs(open_priorities(POLICY.priorities)) do
    if priority ~= job[4] then add_of(priority) end
  end
end

-- How many other workers would take a job of this model at once when woken.
local function available_workers(model)
  local count = 0
  for _, name in ipairs(redis.call('SMEMBERS', P .. 'idle_workers:' .. model)) do
    if name ~= worker and is_available(name, model) then count = count + 1 end
  end
  return count
end

-- True if the first job is not for this worker now: it must be alone, and the worker holds others; or the worker renders
-- images of another batch key, or idle workers are enough for what waits.
local function is_deferred(head, model)
  if #ARGV > LAST_MODEL and must_be_alone(head) then return true end
  if wanted_batch_key ~= '' and redis.call('HGET', job_key(head), 'batch_key') ~= wanted_batch_key then return true end
  return claims_ahead and waiting_jobs(model) <= available_workers(model)
end

-- All that a worker holds at a time is batch peers: the crash of one counts for none of them.
local function join_batch(jobs)
  local held = 0
  for i = LAST_MODEL + 1, #ARGV, 2 do
    local job = redis.call('HMGET', job_key(ARGV[i]), 'state', 'fence')
    if job[1] == 'processing' and job[2] == ARGV[i + 1] then
      held = held + 1
      redis.call('HINCRBY', job_key(ARGV[i]), 'batch_peers', #jobs)
    end
  end
  for _, job in ipairs(jobs) do redis.call('HSET', job_key(job.id), 'batch_peers', #jobs - 1 + held) end
end

-- What a worker sent before its process died is read after that was reported: a lease would hold up what it is given.
if redis.call('HEXISTS', worker_key, 'dead') == 1 then return cjson.encode({waiting = 0, idle = 0, deferred = false}) end
local is_draining = redis.call('HEXISTS', worker_key, 'draining') == 1
local head, model, vstart, priority, vfinish
if not is_draining and not is_paused() then head, model, vstart, priority, vfinish = find_head() end
local jobs, reply = {}, {waiting = 0, idle = 0, deferred = false}
if head and is_deferred(head, model) then
  head, reply.deferred = nil, true
  -- Nothing was taken in this turn.
  redis.call('HINCRBY', P .. 'totals', 'claims', -1)
end
if head or not claims_ahead then set_idle(not head and not is_draining and not reply.deferred) end
if head then
  vclock = math.max(vclock, vfinish)
  advance_vclock(model .. ':' .. priority, vstart)
  reply.idle = redis.call('SCARD', P .. 'idle_workers:' .. model)
  jobs[1] = start(head)
  fill_batch(jobs, head, model, reply.idle)
  join_batch(jobs)
  local images = 0
  for _, job in ipairs(jobs) do images = images + redis.call('HGET', job_key(job.id), 'images') end
  observe('batch_images', '', images)
  reply.waiting = waiting_jobs(model)
  reply.jobs = jobs
end
local stored = cjson.encode(reply)
redis.call('HSET', worker_key, 'claim_nonce', nonce, 'claim_reply', stored, 'vclock', vclock)
redis.call('ZREMRANGEBYSCORE', worker_vfinish, '-inf', vclock)
-- For a reclaim round to remove it one day, even if it never sends a heartbeat.
redis.call('ZADD', P .. 'workers', 'NX', integer(now()), worker)
return reply_with_requests(stored)
