-- Let no further line of a bulk become a job: its completion window is over, or its caller cancels it.
-- ARGV: id, 'expired' or 'cancelled'
-- Returns its state before, or nothing if there is no such bulk
local id, ending = ARGV[1], ARGV[2]
local state = redis.call('HGET', bulk_key(id), 'state')
if state == 'validating' or state == 'in_progress' then
  redis.call('HSETNX', bulk_key(id), 'ending', ending)
  if ending == 'cancelled' then
    redis.call('HSET', bulk_key(id), 'state', 'cancelling', 'cancelling_us', integer(now()), 'ending', ending)
    look_at_bulk(id)
  end
end
return state
