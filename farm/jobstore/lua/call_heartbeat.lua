-- An API process's heartbeat for the direct calls that still wait for their jobs.
-- ARGV: id, call, id, call, …
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  local job = redis.call('HMGET', job_key(id), 'state', 'direct_key')
  local is_waiting = redis.call('SISMEMBER', P .. 'waiting_calls:' .. id, ARGV[i + 1]) == 1
    and (job[1] == 'created' or job[1] == 'processing')
  if is_waiting then record_heartbeat(id, job[2]) end
end
return 1
