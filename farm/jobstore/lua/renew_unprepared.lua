-- A preparer's heartbeat: extend its leases.
-- ARGV: lease_us, id, id, …
local until_us = integer(now() + tonumber(ARGV[1]))
for i = 2, #ARGV do
  redis.call('ZADD', P .. 'preparing', 'XX', until_us, ARGV[i])
  redis.call('ZADD', P .. 'preparing_again', 'XX', until_us, ARGV[i])
end
return 1
