-- An API's sign of life: these direct calls still wait for their jobs.
-- ARGV: id, call, id, call, …
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  local job = redis.call('HMGET', job_key(id), 'state', 'direct')
  local waits = redis.call('SISMEMBER', P .. 'calls:' .. id, ARGV[i + 1]) == 1 and (job[1] == 'created' or job[1] == 'processing')
  -- Once a caller was told where the picture will be, it is made in any case.
  if waits and redis.call('ZSCORE', job[2], id) ~= 'inf' then hold_call(id, job[2]) end
end
return 1
