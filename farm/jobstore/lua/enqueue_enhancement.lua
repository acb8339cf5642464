-- Enqueue a prompt that a caller wants enhanced now; a caller that nobody answers has given up after a minute.
-- ARGV: the question as JSON, caller, enhancements a minute, the caller's submits a minute (0: any)
-- Returns the time until one more is allowed (us) if it was refused, or 0
local wait_us = count_manual_act(ARGV[2], 'enhancements_until_us', tonumber(ARGV[3]), tonumber(ARGV[4]))
if wait_us > 0 then return wait_us end
redis.call('RPUSH', P .. 'enhancements', ARGV[1])
redis.call('PEXPIRE', P .. 'enhancements', MINUTE_US / 1000)
redis.call('PUBLISH', P .. 'enhancements', '')
return 0
