-- A job is ready for a GPU: it joins the queue of its model.
-- ARGV: id, request, the redacted request, model, batch_key, cost, images
-- Returns 1, or 0 if it has ended or another preparer was first
local id, request, redacted, model, batch_key, cost, images = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local job = redis.call('HMGET', job_key(id), 'state', 'queue', 'caller', 'priority', 'created_us', 'render_alone',
  'redacted_request', 'request', 'model', 'affinity', 'images', 'cost')

-- The same call again, because its answer was lost.
if job[1] and not is_unprepared(job[2]) and job[8] == request then return 1 end
if job[1] ~= 'created' or not is_unprepared(job[2]) then return 0 end

take_from_queue(id, job[2])
redis.call('ZREM', queue_by_age_key(job[2], job[9]), id)
count_work('unprepared', job[9], -1, job[11], job[12])
count_work('waiting', model, 1, images, cost)
observe('job_preparation_seconds', '', (now() - job[5]) / SECOND_US)
local queue = model .. ':' .. job[4]
local vstart = next_vstart(queue, job[3], tonumber(cost))
redis.call('HSET', job_key(id), 'request', request, 'model', model, 'batch_key', batch_key, 'cost', cost, 'images', images,
  'queue', queue, 'vstart', vstart)
if job[7] then redis.call('HSET', job_key(id), 'redacted_request', redacted) end
if job[10] then reserve_for_preferred_worker(id) end
enqueue(id, vstart)
return 1
