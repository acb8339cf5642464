-- Give a worker the next batch: the job whose turn it is, and waiting jobs that agree with it.
-- ARGV: worker, nonce, lease_us, most images, ttl_us, model, model, …
-- Returns JSON {waiting, idle, jobs: [{id, fence, attempt, request, keeps_payload}]}
local worker, nonce, lease_us, most_images, ttl_us = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST_MODEL = 6
local worker_key = P .. 'worker:' .. worker

-- What a claim is answered with. It is kept without the requests, which go when their jobs do.
local function answer(claimed)
  local reply = cjson.decode(claimed)
  for _, job in ipairs(reply.jobs or {}) do
    job.request = redis.call('HGET', job_key(job.id), 'request')
    job.keeps_payload = redis.call('HEXISTS', job_key(job.id), 'blank') == 0
  end
  return cjson.encode(reply)
end

-- The same call again, because its answer was lost: the same jobs, not more of them.
if redis.call('HGET', worker_key, 'nonce') == nonce then return answer(redis.call('HGET', worker_key, 'claimed')) end

-- The lanes of several models know nothing of one another. So that callers take turns over all of them, each worker
-- keeps a virtual time of its own: up to where it has worked for whom, and the present.
local shares = P .. 'shares:' .. worker
local present = tonumber(redis.call('HGET', worker_key, 'present') or 0)

local function share_of(caller) return math.max(present, tonumber(redis.call('HGET', shares, caller) or 0)) end

-- The first of a lane, its turn, since when it waits, and its caller. Those that come too late end on the way; were they very many,
-- the reaper has the rest.
local function first_of(lane)
  for _ = 1, 100 do
    local first = redis.call('ZRANGE', P .. 'waiting:' .. lane, 0, 0, 'WITHSCORES')
    if not first[1] then return end
    local job = redis.call('HMGET', job_key(first[1]), 'created_us', 'start_by_us', 'caller')
    if not is_late(job[2]) then return first[1], tonumber(first[2]), tonumber(job[1]), job[3] end
    finish_late(first[1], ttl_us)
  end
end

-- Of the heads of the models that this worker serves: one that came back, else that of the caller for whom it has done
-- least, else the one that waits longest. And its turn.
local function find_head()
  for _, priority in ipairs(priorities('claims')) do
    local head, model, turn, share, since
    for i = FIRST_MODEL, #ARGV do
      local first, its_turn, created, caller = first_of(ARGV[i] .. ':' .. priority)
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
  redis.call('HSET', key, 'fence', fence, 'worker', worker, 'step', 0, 'started_us', whole(now()))
  redis.call('ZADD', P .. 'leases', whole(now() + lease_us), id)
  local job = redis.call('HMGET', key, 'lane', 'caller', 'turn', 'cost')
  redis.call('HSET', P .. 'claimed:' .. job[1], job[2], tonumber(job[3]) + tonumber(job[4]))
  redis.call('HSET', shares, job[2], share_of(job[2]) + tonumber(job[4]))
  transition(id, 'processing')
  return {id = id, fence = fence, attempt = attempt}
end

local function is_idle(yes)
  for i = FIRST_MODEL, #ARGV do
    redis.call(yes and 'SADD' or 'SREM', P .. 'idle:' .. ARGV[i], worker)
  end
end

-- A lone job comes alone; else those of the same batch key that fit, no more than this worker's share while others
-- stand idle.
local function take_mates(jobs, head, model, others)
  local job = redis.call('HMGET', job_key(head), 'solo', 'batch_key', 'images')
  if job[1] == '1' then return end
  local room = most_images - tonumber(job[3])
  local share = math.ceil((waiting(model) + 1) / (others + 1))
  for _, id in ipairs(redis.call('ZRANGE', P .. 'mates:' .. job[2], 0, 15)) do
    if #jobs >= share or room <= 0 then return end
    local mate = redis.call('HMGET', job_key(id), 'images', 'start_by_us')
    local images = tonumber(mate[1])
    if images <= room and not is_late(mate[2]) then
      room = room - images
      jobs[#jobs + 1] = take(id)
    end
  end
end

local head, model, turn, priority = find_head()
is_idle(not head)
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
-- Also where it has given no sign of life yet, it is forgotten one day.
redis.call('ZADD', P .. 'workers', 'NX', whole(now()), worker)
return answer(text)
