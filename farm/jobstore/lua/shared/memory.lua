-- The memory that each caller's jobs and their deliveries take, from the submit until they are deleted: callers share it.

local function count_kept(caller, bytes)
  if redis.call('HINCRBY', P .. 'kept_bytes', caller, bytes) <= 0 then redis.call('HDEL', P .. 'kept_bytes', caller) end
end
