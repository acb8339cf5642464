-- Give waiting jobs another priority: each joins that queue as if it were submitted now. One that came back stays in front.
-- ARGV: priority, then the ids
-- Returns how many of the jobs wait and had another priority
local priority = ARGV[1]

-- Move a job to the queue of the new priority. One that a preparer has, or that is set aside, joins it later.
local function move(id, job)
  local old = job[2]
  -- {model}:{priority}, or unprepared:{priority}
  local queue = string.sub(old, 1, -#job[3] - 1) .. priority
  local score = redis.call('ZSCORE', P .. 'queue:' .. old, id)
  local vstart = score and tonumber(score)
  redis.call('ZREM', P .. 'queue:' .. old, id)
  redis.call('ZREM', batch_candidates_key(job[7], job[3]), id)
  local was_indexed = redis.call('ZREM', queue_by_age_key(old, job[4]), id) == 1
  redis.call('HSET', job_key(id), 'queue', queue, 'priority', priority)
  if was_indexed then redis.call('ZADD', queue_by_age_key(queue, job[4]), job[8], id) end
  if not vstart then return end
  if vstart >= 0 then
    vstart = next_vstart(queue, job[5], tonumber(job[6]))
    redis.call('HSET', job_key(id), 'vstart', vstart)
  end
  enqueue(id, vstart)
end

local count = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local job = redis.call('HMGET', job_key(id), 'state', 'queue', 'priority', 'model', 'caller', 'cost', 'batch_key', 'created_us')
  if job[1] == 'created' and job[3] ~= priority then
    move(id, job)
    count = count + 1
  end
end
return count
