-- Give a worker the next batch: the job whose turn it is, and waiting jobs that agree with it.
-- ARGV: worker, nonce, lease_us, most images, model, model, …
-- Returns JSON {waiting, idle, jobs: [{id, fence, attempt, request}]}
local worker, nonce, lease_us, most_images = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local worker_key = P .. 'worker:' .. worker

-- The same call again, because its answer was lost: the same jobs, not more of them.
if redis.call('HGET', worker_key, 'nonce') == nonce then return redis.call('HGET', worker_key, 'claimed') end

-- Low priority gets one claim in eight even while normal jobs wait, so that it is never starved.
local function priorities()
  if redis.call('HINCRBY', P .. 'totals', 'claims', 1) % 8 == 0 then return {'low', 'normal'} end
  return {'normal', 'low'}
end

-- Of the models this worker serves, the head that waits longest, and its turn.
local function find_head()
  for _, priority in ipairs(priorities()) do
    local head, model, turn, since
    for i = 5, #ARGV do
      local first = redis.call('ZRANGE', P .. 'waiting:' .. ARGV[i] .. ':' .. priority, 0, 0, 'WITHSCORES')
      local created = first[1] and tonumber(redis.call('HGET', job_key(first[1]), 'created_us'))
      if created and (not since or created < since) then
        head, model, turn, since = first[1], ARGV[i], tonumber(first[2]), created
      end
    end
    if head then return head, model, turn, priority end
  end
end

local function take(id)
  local key = job_key(id)
  leave_line(id)
  local fence = redis.call('INCR', P .. 'fence')
  local attempt = redis.call('HINCRBY', key, 'attempt', 1)
  redis.call('HSET', key, 'fence', fence, 'worker', worker, 'step', 0, 'started_us', whole(now()))
  redis.call('ZADD', P .. 'leases', whole(now() + lease_us), id)
  local job = redis.call('HMGET', key, 'model', 'priority', 'caller', 'turn', 'cost')
  redis.call('HSET', P .. 'claimed:' .. job[1] .. ':' .. job[2], job[3], tonumber(job[4]) + tonumber(job[5]))
  transition(id, 'processing')
  return {id = id, fence = fence, attempt = attempt, request = redis.call('HGET', key, 'request')}
end

local function is_idle(yes)
  for i = 5, #ARGV do
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
    local images = tonumber(redis.call('HGET', job_key(id), 'images'))
    if images <= room then
      room = room - images
      jobs[#jobs + 1] = take(id)
    end
  end
end

local head, model, turn, priority = find_head()
is_idle(not head)
local jobs, reply = {}, {waiting = 0, idle = 0}
if head then
  if turn > 0 then redis.call('SET', P .. 'clock:' .. model .. ':' .. priority, turn) end
  reply.idle = redis.call('SCARD', P .. 'idle:' .. model)
  jobs[1] = take(head)
  take_mates(jobs, head, model, reply.idle)
  for _, job in ipairs(jobs) do redis.call('HSET', job_key(job.id), 'mates', #jobs - 1) end
  reply.waiting = waiting(model)
  reply.jobs = jobs
end
local text = cjson.encode(reply)
redis.call('HSET', worker_key, 'nonce', nonce, 'claimed', text)
return text
