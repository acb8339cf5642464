-- Cancel a job.
-- ARGV: id, ttl_us
-- Returns 'cancelled' (it never started), 'stopping' (its worker is notified), 'ended' or 'unknown'
return stop(ARGV[1], 'cancelled', tonumber(ARGV[2]))
