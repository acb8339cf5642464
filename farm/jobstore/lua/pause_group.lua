-- Pause a group of jobs: workers take none of them until it is resumed.
-- ARGV: kind ('model' | 'priority' | 'caller'), name
redis.call('HSETNX', P .. 'paused_groups', ARGV[1] .. ':' .. ARGV[2], integer(now()))
if ARGV[1] == 'caller' then redis.call('SREM', P .. 'resuming', ARGV[2]) end
