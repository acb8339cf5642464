-- A job is ready for a GPU: it gets its turn in the line of its model.
-- ARGV: id, request, what that becomes with the job's end, model, batch_key, cost, images
-- Returns 1, or 0 where it has ended or somebody else has prepared it
local id, request, blank, model, batch_key, cost, images = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local job = redis.call('HMGET', job_key(id), 'state', 'lane', 'caller', 'priority', 'created_us', 'solo', 'blank', 'request', 'model', 'hint')

-- The same call again, because its answer was lost.
if job[1] and not is_unprepared(job[2]) and job[8] == request then return 1 end
if job[1] ~= 'created' or not is_unprepared(job[2]) then return 0 end

step_out(id, job[2])
redis.call('ZREM', since_key(job[2], job[9]), id)
local lane = model .. ':' .. job[4]
local turn = next_turn(lane, job[3], tonumber(cost))
redis.call('HSET', job_key(id), 'request', request, 'model', model, 'batch_key', batch_key, 'cost', cost, 'images', images,
  'lane', lane, 'turn', turn)
if job[7] then redis.call('HSET', job_key(id), 'blank', blank) end
if job[10] then leave_to_preferred(id) end
stand_in_line(id, turn, lane, model, job[5])
if not job[6] then redis.call('ZADD', mates_key(batch_key, job[4]), turn, id) end
return 1
