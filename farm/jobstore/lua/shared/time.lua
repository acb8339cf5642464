-- Times are microseconds of Redis's own clock.

local SECOND_US = 1000000
local HOUR_US = 3600 * SECOND_US
local DAY_US = 24 * HOUR_US

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * SECOND_US + tonumber(time[2])
end

-- Lua would write a large number as 1.7e+15.
local function integer(number) return string.format('%.0f', number) end
