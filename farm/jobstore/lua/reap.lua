-- Take back what dead workers held, end what lasts too long or nobody wants any more, let delayed jobs line up, forget
-- dead workers.
-- Any process may, any number of times.
-- ARGV: hold (1: signs of life cannot be judged, Redis has just started, or its clock has leapt), most attempts, ttl_us,
-- silence_us (a dead worker's), render_us
-- Returns {taken back, 1 where there is more to do than one call may}
local hold, most, ttl_us, silence_us = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local render_us = tonumber(ARGV[5])
local AT_ONCE = 200
local taken, more = 0, 0

-- What is due in a set of ids by time; it is taken out.
local function due(name)
  local ids = redis.call('ZRANGEBYSCORE', P .. name, '-inf', whole(now()), 'LIMIT', 0, AT_ONCE)
  if #ids == AT_ONCE then more = 1 end
  if #ids > 0 then redis.call('ZREM', P .. name, unpack(ids)) end
  return ids
end

-- Nothing lies further ahead than it can: were the clock set back, a dead worker's lease would last as long as that was.
local function shorten(name, most_us)
  local latest = whole(now() + most_us)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. name, '(' .. latest, '+inf', 'LIMIT', 0, AT_ONCE)) do
    redis.call('ZADD', P .. name, latest, id)
  end
end

for _, name in ipairs({'leases', 'preparing', 'suspects'}) do shorten(name, math.max(silence_us, 60 * SECOND_US)) end
shorten('workers', 0)
shorten('render_by', render_us)
shorten('letting_go', 2 * AGAIN_US)
shorten('delayed', SECOND_US * 2 ^ most)

-- How a job ends whose worker died; nothing where it may be tried again. Nobody is charged for the crash of a batch.
local function last_error(attempt, mates, once)
  if once then return 'The worker died, and the job was not to be tried again.' end
  if attempt >= most and mates == 0 then
    return 'The job was started ' .. attempt .. ' times, and each time its worker died.'
  end
end

local function take_from_the_dead(id)
  local job = redis.call('HMGET', job_key(id), 'state', 'attempt', 'mates', 'stopping', 'once')
  if job[1] ~= 'processing' then return end
  redis.call('HINCRBY', P .. 'totals', 'reaped', 1)
  taken = taken + 1
  local mates = tonumber(job[3])
  local last = last_error(tonumber(job[2]), mates, job[5])
  if job[4] then
    finish_stopped(id, job[4], ttl_us)
  elseif last then
    finish(id, 'failed', {'code', 'attempts_exhausted', 'error', last}, ttl_us)
  else
    isolate(id, mates)
    take_back(id, 0)
  end
end

if not hold then
  for _, id in ipairs(due('leases')) do take_from_the_dead(id) end
end

-- A start that lasts too long is over, whether or not its worker lives. Which job of a batch is to blame nobody knows: as after a
-- crash, those of several are alone from now on, uncharged.
local function cut_short(id)
  local job = redis.call('HMGET', job_key(id), 'state', 'mates', 'stopping')
  if job[1] ~= 'processing' then return end
  redis.call('PUBLISH', P .. 'stop', id)
  local mates = tonumber(job[2])
  if job[3] then
    finish_stopped(id, job[3], ttl_us)
  elseif mates == 0 then
    finish(id, 'failed', {'code', 'render_timeout', 'error', 'Rendering took longer than this farm allows.'}, ttl_us)
  else
    isolate(id, mates)
    drop_fence(id)
    take_back(id, 0)
  end
end

for _, id in ipairs(due('render_by')) do
  -- A start that a leap of the clock made long is given its whole time again.
  if hold then redis.call('ZADD', P .. 'render_by', whole(now() + render_us), id) else cut_short(id) end
end

for _, id in ipairs(due('start_by')) do
  if redis.call('HGET', job_key(id), 'state') == 'created' then finish_late(id, ttl_us) end
end

-- Nobody asked again for what its caller left: it ends, if it has not.
local function give_up(id)
  local direct = redis.call('HGET', job_key(id), 'direct')
  if direct then let_go(id, direct) end
  stop(id, 'client_disconnected', ttl_us)
end

if not hold then
  for _, id in ipairs(due('letting_go')) do give_up(id) end
end

for _, id in ipairs(due('delayed')) do
  if redis.call('HGET', job_key(id), 'state') == 'created' then line_up_again(id) end
end

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', '-inf', whole(now() - silence_us), 'LIMIT', 0, 50)) do
  for _, model in ipairs(redis.call('HKEYS', P .. 'models')) do redis.call('SREM', P .. 'idle:' .. model, worker) end
  redis.call('DEL', P .. 'worker:' .. worker, P .. 'shares:' .. worker)
  redis.call('ZREM', P .. 'workers', worker)
end
return {taken, more}
