-- Take deliveries that are due, at most one of each receiver, under a lease.
-- ARGV: most deliveries, lease_us, tries at a time a receiver may have, failures in a row after which it may have one
-- Returns JSON [{id, job, caller, receiver, url, event, sequence, fence, tries, created_us}]
local most, lease_us, room, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = now()

-- A try whose worker died, or was too slow to tell: it is due again.
local function take_back_overdue(receiver)
  local posting = P .. 'posting:' .. receiver
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', posting, '-inf', whole(time))) do
    redis.call('ZREM', posting, id)
    redis.call('ZADD', P .. 'due:' .. receiver, whole(time), id)
  end
end

local function has_room(receiver)
  local faults = tonumber(redis.call('HGET', P .. 'faults', receiver) or 0)
  return redis.call('ZCARD', P .. 'posting:' .. receiver) < (faults >= patience and 1 or room)
end

local function take(id, receiver)
  local key = P .. 'delivery:' .. id
  redis.call('ZREM', P .. 'due:' .. receiver, id)
  redis.call('ZADD', P .. 'posting:' .. receiver, whole(time + lease_us), id)
  local fence, tries = redis.call('HINCRBY', key, 'fence', 1), redis.call('HINCRBY', key, 'tries', 1)
  local delivery = redis.call('HMGET', key, 'job', 'caller', 'url', 'event', 'sequence', 'created_us')
  return {id = id, job = delivery[1], caller = delivery[2], url = delivery[3] or '', receiver = receiver, event = delivery[4],
    sequence = tonumber(delivery[5]), created_us = delivery[6], fence = fence, tries = tries}
end

local taken = {}
for _, receiver in ipairs(redis.call('ZRANGEBYSCORE', P .. 'receivers', '-inf', whole(time), 'LIMIT', 0, most)) do
  take_back_overdue(receiver)
  if has_room(receiver) then
    local due = redis.call('ZRANGEBYSCORE', P .. 'due:' .. receiver, '-inf', whole(time), 'LIMIT', 0, 1)
    if due[1] then taken[#taken + 1] = take(due[1], receiver) end
  end
  look_again(receiver, has_room(receiver))
end
if #taken == 0 then return '[]' end
return cjson.encode(taken)
