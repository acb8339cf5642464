-- Times are microseconds of Redis's own clock.

local SECOND_US = 1000000
local HOUR_US = 3600 * SECOND_US
local DAY_US = 24 * HOUR_US

-- The time at which the script began: Redis keeps it for as long as it runs.
local now_us

local function now()
  if not now_us then
    local time = redis.call('TIME')
    now_us = tonumber(time[1]) * SECOND_US + tonumber(time[2])
  end
  return now_us
end

-- Lua would write a large number as 1.7e+15.
local function integer(number) return string.format('%.0f', number) end
