-- Take deliveries that are due, at most one of each line, under a lease.
-- ARGV: most deliveries, lease_us, tries at a time a line may have, failures in a row after which it may have one,
--       tries at a time a caller may have, nonce
-- Returns JSON [{id, job, caller, receiver, url, event, sequence, fence, tries, by_hand, created_us}]
local most, lease_us, room, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local callers_room = tonumber(ARGV[5])
local answer = P .. 'taken:' .. ARGV[6]
local time = now()

-- The same call again, because its answer was lost: the same deliveries, not more of them.
local known = redis.call('GET', answer)
if known then return known end
-- So many lines are looked at that turn out to have no room or nothing due; the others have their turn after them.
local PATIENT = 100

-- A try whose worker died, or was too slow to tell: it is due again.
local function take_back_overdue(caller, line)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'posting:' .. line, '-inf', whole(time))) do
    stop_posting(id, caller, line)
    redis.call('ZADD', P .. 'due:' .. line, whole(time), id)
  end
end

local function has_room(line)
  local faults = tonumber(redis.call('HGET', P .. 'faults', line) or 0)
  return redis.call('ZCARD', P .. 'posting:' .. line) < (faults >= patience and 1 or room)
end

local function caller_has_room(caller)
  redis.call('ZREMRANGEBYSCORE', P .. 'posting_of:' .. caller, '-inf', whole(time))
  return redis.call('ZCARD', P .. 'posting_of:' .. caller) < callers_room
end

local function take(id, line)
  local key = P .. 'delivery:' .. id
  local delivery = redis.call('HMGET', key, 'job', 'caller', 'url', 'event', 'sequence', 'created_us', 'receiver', 'tries', 'by_hand')
  redis.call('ZREM', P .. 'due:' .. line, id)
  redis.call('ZADD', P .. 'posting:' .. line, whole(time + lease_us), id)
  redis.call('ZADD', P .. 'posting_of:' .. delivery[2], whole(time + lease_us), id)
  return {id = id, job = delivery[1], caller = delivery[2], url = delivery[3] or '', receiver = delivery[7],
    event = delivery[4], sequence = tonumber(delivery[5]), created_us = delivery[6], tries = tonumber(delivery[8]),
    by_hand = delivery[9] == '1', fence = redis.call('HINCRBY', key, 'fence', 1)}
end

local taken = {}
for _, line in ipairs(redis.call('ZRANGEBYSCORE', P .. 'lines', '-inf', whole(time), 'LIMIT', 0, most + PATIENT)) do
  if #taken == most then break end
  local caller = string.match(line, '^(%S+) ')
  take_back_overdue(caller, line)
  if not caller_has_room(caller) then
    redis.call('ZADD', P .. 'lines', whole(time + SECOND_US), line)
  else
    local due = has_room(line) and redis.call('ZRANGEBYSCORE', P .. 'due:' .. line, '-inf', whole(time), 'LIMIT', 0, 1) or {}
    if due[1] then taken[#taken + 1] = take(due[1], line) end
    look_again(line, has_room(line))
  end
end
if #taken == 0 then return '[]' end
local text = cjson.encode(taken)
redis.call('SET', answer, text, 'PX', math.ceil(lease_us / 1000))
return text
