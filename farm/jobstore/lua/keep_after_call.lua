-- A direct call was answered before its job's end: the client knows where the image will be, so the job goes on in any case.
-- Many clients send the call again all the same: an equal one goes on with the job.
-- ARGV: id, call
local id, call = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(id), 'state', 'direct_key')
if not job[2] then return 1 end
if job[1] == 'created' or job[1] == 'processing' then redis.call('HSET', job_key(id), 'kept_after_call', 1) end
end_call_without_result(id, job[2], call)
return 1
