-- Give a bulk back: any process may look at it again after a pause, or when its last job has ended, and at the end of its
-- completion window.
-- ARGV: id, fence, pause_us (none: until its last job has ended)
local id, fence, pause_us = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not holds_bulk(id, fence) then return end
redis.call('HDEL', bulk_key(id), 'leased', 'held_by')
redis.call('ZREM', P .. 'bulk_leases', id)
local time, window_end = now(), tonumber(redis.call('HGET', bulk_key(id), 'expires_us'))
if redis.call('HDEL', bulk_key(id), 'look_again') == 1 then pause_us = 0 end
local has_jobs = redis.call('EXISTS', bulk_open_key(id)) == 1
local due = pause_us and time + pause_us or has_jobs and math.huge or time
redis.call('ZADD', P .. 'bulk_due', integer(window_end > time and math.min(due, window_end) or due), id)
