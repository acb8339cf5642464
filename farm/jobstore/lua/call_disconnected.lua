-- A direct call disconnected before its answer. If no other waits for its job, the job is abandoned unless an equal call comes.
-- ARGV: id, call
-- Returns 1 if no call waits for the job any longer, or 0
local id, call = ARGV[1], ARGV[2]
local direct = redis.call('HGET', job_key(id), 'direct_key')
return direct and end_call_without_result(id, direct, call) and 1 or 0
