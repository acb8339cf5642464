-- Change the state of a bulk.
-- ARGV: id, fence, state, 1 if that is its end, states that it may be reached from (comma-separated), then fields of the
-- record: name, value, name, value, …
-- At its end, a webhook delivery is enqueued if its caller wants one.
-- Returns 1, or 0 if the fence is stale or its state has changed meanwhile
local id, fence, state, is_end, origins = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ',' .. ARGV[5] .. ','
local bulk = redis.call('HMGET', bulk_key(id), 'state', 'caller', 'webhook', 'receiver', 'event', 'kept_until_us', 'line_error_bytes')
-- The same call again, because its answer was lost.
if bulk[1] == state then return 1 end
if not holds_bulk(id, fence) or not string.find(origins, ',' .. bulk[1] .. ',', 1, true) then return 0 end
redis.call('HSET', bulk_key(id), 'state', state, state .. '_us', integer(now()), unpack(ARGV, 6))
-- The problems of a file take the most of it.
local bytes = 0
for i = 6, #ARGV do bytes = bytes + #ARGV[i] end
count_bulk_bytes(id, bulk[2], bytes)
if not is_end then return 1 end
redis.call('HSET', bulk_key(id), 'fence', 0)
redis.call('ZREM', P .. 'bulk_due', id)
redis.call('ZREM', P .. 'bulk_leases', id)
redis.call('DEL', bulk_open_key(id), P .. 'bulk_line_errors:' .. id)
count_bulk_bytes(id, bulk[2], -(bulk[7] or 0))
if bulk[3] then
  redis.call('HSET', P .. 'delivery:' .. bulk[5] .. '-0', 'url', bulk[3])
  enqueue_delivery(bulk[5] .. '-0', {job = id, caller = bulk[2], receiver = bulk[4], event = 'batch.' .. state, sequence = 0})
  redis.call('ZADD', P .. 'expiry', bulk[6], bulk[5])
end
return 1
