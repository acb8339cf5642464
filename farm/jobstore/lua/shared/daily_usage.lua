-- What each caller has had rendered, by day (UTC) and model: for invoices.

-- Count a completed job. `megapixel_steps` are millionths. A day is kept for `keep_us` after its last job.
local function count_daily_usage(caller, model, images, megapixel_steps, device_us, keep_us)
  local day = caller .. ':' .. integer(math.floor(now() / DAY_US))
  local key = P .. 'daily_usage:' .. day
  redis.call('HINCRBY', key, model .. ':images', images)
  redis.call('HINCRBY', key, model .. ':megapixel_steps', megapixel_steps)
  redis.call('HINCRBY', key, model .. ':device_us', device_us)
  redis.call('PEXPIRE', key, integer(keep_us / 1000))
  redis.call('ZADD', P .. 'daily_usage', integer(now()), day)
  redis.call('ZREMRANGEBYSCORE', P .. 'daily_usage', '-inf', integer(now() - keep_us))
end
