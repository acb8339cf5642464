-- Give a preparer jobs that are not prepared yet, under a lease: one that was lost with its preparer, then those whose turn
-- it is. While others wait, a caller has at most half of all places that are taken: its hosts may be slow.
-- ARGV: count, lease_us, most takes of a job, ttl_us
-- Returns their ids
local count, lease_us, most, ttl_us = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local taken = {}

local function take(id, set)
  step_out(id, redis.call('HGET', job_key(id), 'lane'))
  if redis.call('HINCRBY', job_key(id), 'takes', 1) > most then
    finish_waiting(id, {'code', 'preparation_failed',
      'error', 'The job was to be prepared ' .. most .. ' times, and each time nothing came of it.'}, ttl_us)
    return
  end
  redis.call('ZADD', P .. set, whole(now() + lease_us), id)
  redis.call('HINCRBY', P .. 'places', redis.call('HGET', job_key(id), 'caller'), 1)
  taken[#taken + 1] = id
end

-- A job that was lost may have killed its preparer and all that were beside it. It never meets another such job, so that
-- only what kills again and again is lost again and again.
local function first_lost()
  local time = whole(now())
  if redis.call('ZCOUNT', P .. 'suspects', '(' .. time, '+inf') > 0 then return end
  return redis.call('ZRANGEBYSCORE', P .. 'suspects', '-inf', time, 'LIMIT', 0, 1)[1]
    or redis.call('ZRANGEBYSCORE', P .. 'preparing', '-inf', time, 'LIMIT', 0, 1)[1]
end

-- May its caller have one more place? `places` is how many are taken.
local function has_room(id, places)
  local its_own = redis.call('HGET', P .. 'places', redis.call('HGET', job_key(id), 'caller'))
  return 2 * (tonumber(its_own or 0) + 1) <= places + 1
end

-- The first whose caller may have a place, among so many that callers who take turns are all among them; else the very first.
-- And its turn.
local function first_of(lane)
  local first = redis.call('ZRANGE', P .. 'waiting:' .. lane, 0, 15, 'WITHSCORES')
  local places = redis.call('ZCARD', P .. 'preparing') + redis.call('ZCARD', P .. 'suspects')
  for i = 1, #first, 2 do
    if has_room(first[i], places) then return first[i], first[i + 1] end
  end
  return first[1], first[2]
end

local function take_first(priority)
  local lane = 'unprepared:' .. priority
  local id, turn = first_of(lane)
  if not id then return false end
  advance(lane, tonumber(turn))
  take(id, 'preparing')
  return true
end

local lost = first_lost()
while lost and #taken < count do
  take(lost, 'suspects')
  lost = first_lost()
end
for _, priority in ipairs(priorities('preparations')) do
  while #taken < count and take_first(priority) do end
end
return taken
