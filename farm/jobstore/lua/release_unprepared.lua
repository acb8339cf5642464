-- A preparer that drains hands a job back: to the front, and the attempt does not count.
-- ARGV: id
-- Returns 1, or 0 if no preparer has it
local id = ARGV[1]
local was_lost = redis.call('ZSCORE', P .. 'preparing_again', id)
if not was_lost and not redis.call('ZSCORE', P .. 'preparing', id) then return 0 end

redis.call('HINCRBY', job_key(id), 'preparation_attempts', -1)
if was_lost then
  redis.call('HDEL', job_key(id), 'held_by')
  redis.call('ZADD', P .. 'preparing_again', integer(now()), id)
else
  take_from_queue(id, redis.call('HGET', job_key(id), 'queue'))
  enqueue_at_front(id)
end
redis.call('PUBLISH', P .. 'unprepared', '')
return 1
