-- Take back what dead workers held, let delayed jobs line up, forget dead workers. Any process may, any number of times.
-- ARGV: hold (1: leases cannot be judged, Redis has just started), most attempts, ttl_us, silence_us (a dead worker's)
-- Returns {taken back, delayed jobs that lined up}
local hold, most, ttl_us, silence_us = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local taken, lined = 0, 0

local function reap(id)
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'mates', 'cancelling')
  redis.call('ZREM', P .. 'leases', id)
  if job[1] ~= 'processing' then return end
  redis.call('HINCRBY', P .. 'totals', 'reaped', 1)
  taken = taken + 1
  if job[4] == '1' then
    finish_cancelled(id, ttl_us)
  elseif tonumber(job[2]) >= most and tonumber(job[3]) == 0 then
    finish(id, 'failed', {'code', 'attempts_exhausted',
      'error', 'The job was started ' .. job[2] .. ' times, and each time its worker died.'}, ttl_us)
  else
    isolate(id, tonumber(job[3]))
    take_back(id, 0)
  end
end

if not hold then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', whole(now()), 'LIMIT', 0, 200)) do reap(id) end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', whole(now()), 'LIMIT', 0, 200)) do
  redis.call('ZREM', P .. 'delayed', id)
  if redis.call('HGET', job_key(id), 'state') == 'created' then
    line_up_again(id)
    lined = lined + 1
  end
end

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', whole(now() - silence_us), 'LIMIT', 0, 50)) do
  for model in string.gmatch(redis.call('HGET', P .. 'worker:' .. worker, 'models') or '', '[^,]+') do
    redis.call('SREM', P .. 'idle:' .. model, worker)
  end
  redis.call('DEL', P .. 'worker:' .. worker)
  redis.call('ZREM', P .. 'workers', worker)
end
return {taken, lined}
