-- A direct call was answered before its job's end: the client knows where the image will be, so the job goes on in any case.
-- A client that sends the call again, and says so, goes on with it.
-- ARGV: id, call
local id, call = ARGV[1], ARGV[2]
local job = redis.call('HMGET', job_key(id), 'state', 'direct_key')
redis.call('SREM', P .. 'waiting_calls:' .. id, call)
if job[2] and (job[1] == 'created' or job[1] == 'processing') and redis.call('ZSCORE', job[2], id) then
  redis.call('ZADD', job[2], 'inf', id)
  redis.call('ZREM', P .. 'abandon_deadline', id)
end
return 1
