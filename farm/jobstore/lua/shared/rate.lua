-- Rates of callers, as token buckets that hold as much as a minute allows.

local MINUTE_US = 60 * SECOND_US

-- Count one act of a caller in a field of its usage, at `rate` acts a minute (0: any).
-- Returns 0, or, if that would be too many, the time until it is allowed (us); then it is not counted.
local function count_act(caller, field, rate)
  if rate == 0 then return 0 end
  local key, pause_us = P .. 'usage:' .. caller, math.floor(MINUTE_US / rate)
  local busy_us = math.max(0, tonumber(redis.call('HGET', key, field) or 0) - now()) + pause_us
  if busy_us > MINUTE_US then return busy_us - MINUTE_US end
  redis.call('HSET', key, field, integer(now() + busy_us))
  redis.call('PEXPIRE', key, DAY_US / 1000)
  return 0
end

-- Count a test, a redelivery or an enhancement (`field`): at its own rate, and as one of the caller's submits. Returns as `count_act`.
local function count_manual_act(caller, field, own_rate, submit_rate)
  local wait_us = count_act(caller, field, own_rate)
  return wait_us > 0 and wait_us or count_act(caller, 'busy_until_us', submit_rate)
end
