-- A preparer's sign of life: nobody else is given what it prepares.
-- ARGV: lease_us, id, id, …
local until_us = whole(now() + tonumber(ARGV[1]))
for i = 2, #ARGV do
  redis.call('ZADD', P .. 'preparing', 'XX', until_us, ARGV[i])
  redis.call('ZADD', P .. 'suspects', 'XX', until_us, ARGV[i])
end
return 1
