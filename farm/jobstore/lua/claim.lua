-- Give a worker the next batch: the job whose turn it is, and waiting jobs that agree with it.
-- ARGV: worker, nonce, lease_us, most images, ttl_us, render_us (how long a start may last), model, model, …
-- Returns JSON {waiting, idle, jobs: [{id, fence, attempt, request, keeps_payload}]}
local worker, nonce, lease_us, most_images, ttl_us = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local render_us = tonumber(ARGV[6])
local FIRST_MODEL = 7
-- So many jobs of a line are passed over at most because they are left to others.
local MOST_LEFT = 16
-- For so long it is remembered, in seconds, who took the last job with a hint.
local REMEMBERED = 600
local worker_key = P .. 'worker:' .. worker

-- What a claim is answered with. It is kept without the requests, which go when their jobs do.
local function answer(claimed)
  local reply = cjson.decode(claimed)
  local jobs = {}
  for _, job in ipairs(reply.jobs or {}) do
    job.request = redis.call('HGET', job_key(job.id), 'request')
    job.keeps_payload = redis.call('HEXISTS', job_key(job.id), 'blank') == 0
    -- One that was ended by another worker meanwhile, and deleted, is not there any more.
    if job.request then jobs[#jobs + 1] = job end
  end
  reply.jobs = jobs[1] and jobs or nil
  return cjson.encode(reply)
end

-- The same call again, because its answer was lost: the same jobs, not more of them.
if redis.call('HGET', worker_key, 'nonce') == nonce then return answer(redis.call('HGET', worker_key, 'claimed')) end

-- The lanes of several models know nothing of one another. So that callers take turns over all of them, each worker
-- keeps a virtual time of its own: up to where it has worked for whom, and the present.
local shares = P .. 'shares:' .. worker
local present = tonumber(redis.call('HGET', worker_key, 'present') or 0)

local function share_of(caller) return math.max(present, tonumber(redis.call('ZSCORE', shares, caller) or 0)) end

-- Would this worker take a job at once, if it were woken?
local function stands_ready(name, model)
  if redis.call('SISMEMBER', P .. 'idle:' .. model, name) == 0 then return false end
  local facts = redis.call('HMGET', P .. 'worker:' .. name, 'state', 'drain')
  local seen_us = tonumber(redis.call('ZSCORE', P .. 'workers', name) or 0)
  return facts[1] == 'warm' and not facts[2] and seen_us > now() - lease_us
end

-- Is a job left to another worker for the moment, since that took the last one with the same hint?
local function is_left(model, caller, hint, until_us)
  if not hint or tonumber(until_us) <= now() then return false end
  local preferred = redis.call('GET', hint_key(caller, hint))
  return preferred and preferred ~= worker and stands_ready(preferred, model)
end

-- The first of a lane that this worker may have, its turn, since when it waits, and its caller. Those that come too late end on the
-- way; were they very many, the reaper has the rest.
local function first_of(model, lane)
  local left = 0
  for _ = 1, 100 do
    local first = redis.call('ZRANGE', P .. 'waiting:' .. lane, left, left, 'WITHSCORES')
    if not first[1] then return end
    local job = redis.call('HMGET', job_key(first[1]), 'created_us', 'start_by_us', 'caller', 'hint', 'hint_until_us')
    if is_late(job[2]) then
      finish_late(first[1], ttl_us)
    elseif left < MOST_LEFT and is_left(model, job[3], job[4], job[5]) then
      left = left + 1
    else
      return first[1], tonumber(first[2]), tonumber(job[1]), job[3]
    end
  end
end

-- Of the heads of the models that this worker serves: one that came back, else that of the caller for whom it has done
-- least, else the one that waits longest. And its turn.
local function find_head()
  for _, priority in ipairs(priorities('claims')) do
    local head, model, turn, share, since
    for i = FIRST_MODEL, #ARGV do
      local first, its_turn, created, caller = first_of(ARGV[i], ARGV[i] .. ':' .. priority)
      if first then
        local its_share = its_turn < 0 and -1 or share_of(caller)
        if not head or its_share < share or (its_share == share and created < since) then
          head, model, turn, share, since = first, ARGV[i], its_turn, its_share, created
        end
      end
    end
    if head then
      present = math.max(present, share)
      return head, model, turn, priority
    end
  end
end

local function take(id)
  local key = job_key(id)
  leave_line(id)
  local fence = redis.call('INCR', P .. 'fence')
  local attempt = redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HSET', key, 'fence', fence, 'worker', worker, 'step', 0, 'started_us', whole(now()),
    'render_by_us', whole(now() + render_us))
  redis.call('ZADD', P .. 'leases', whole(now() + lease_us), id)
  redis.call('ZADD', P .. 'render_by', whole(now() + render_us), id)
  local job = redis.call('HMGET', key, 'lane', 'caller', 'turn', 'cost', 'hint')
  redis.call('ZADD', P .. 'given:' .. job[1], tonumber(job[3]) + tonumber(job[4]), job[2])
  redis.call('ZADD', shares, share_of(job[2]) + tonumber(job[4]), job[2])
  if job[5] then redis.call('SET', hint_key(job[2], job[5]), worker, 'EX', REMEMBERED) end
  transition(id, 'processing')
  return {id = id, fence = fence, attempt = attempt}
end

local function is_idle(yes)
  for i = FIRST_MODEL, #ARGV do
    redis.call(yes and 'SADD' or 'SREM', P .. 'idle:' .. ARGV[i], worker)
  end
end

-- A lone job comes alone; else those of the same batch key that fit, no more than this worker's share while others
-- stand idle. Those of the other priority only fill what its own leave free.
local function take_mates(jobs, head, model, others)
  local job = redis.call('HMGET', job_key(head), 'solo', 'batch_key', 'images', 'priority')
  if job[1] == '1' then return end
  local room = most_images - tonumber(job[3])
  local share = math.ceil((waiting(model) + 1) / (others + 1))

  local function take_if_it_fits(id)
    if #jobs >= share or room <= 0 then return end
    local mate = redis.call('HMGET', job_key(id), 'images', 'start_by_us', 'caller', 'hint', 'hint_until_us')
    local images = tonumber(mate[1])
    if images <= room and not is_late(mate[2]) and not is_left(model, mate[3], mate[4], mate[5]) then
      room = room - images
      jobs[#jobs + 1] = take(id)
    end
  end

  for _, priority in ipairs({job[4], job[4] == 'low' and 'normal' or 'low'}) do
    for _, id in ipairs(redis.call('ZRANGE', mates_key(job[2], priority), 0, 15)) do take_if_it_fits(id) end
  end
end

local drains = redis.call('HEXISTS', worker_key, 'drain') == 1
local head, model, turn, priority
if not drains and not is_paused() then head, model, turn, priority = find_head() end
is_idle(not head and not drains)
local jobs, reply = {}, {waiting = 0, idle = 0}
if head then
  advance(model .. ':' .. priority, turn)
  reply.idle = redis.call('SCARD', P .. 'idle:' .. model)
  jobs[1] = take(head)
  take_mates(jobs, head, model, reply.idle)
  for _, job in ipairs(jobs) do redis.call('HSET', job_key(job.id), 'mates', #jobs - 1) end
  reply.waiting = waiting(model)
  reply.jobs = jobs
end
local text = cjson.encode(reply)
redis.call('HSET', worker_key, 'nonce', nonce, 'claimed', text, 'present', present)
redis.call('ZREMRANGEBYSCORE', shares, '-inf', present)
-- Also where it has given no sign of life yet, it is forgotten one day.
redis.call('ZADD', P .. 'workers', 'NX', whole(now()), worker)
return answer(text)
