-- End a job that cannot be prepared.
-- ARGV: id, code, error, ttl_us
-- Returns 1, or 0 if it has ended or was prepared
local id, code, error_text, ttl_us = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local job = redis.call('HMGET', job_key(id), 'state', 'queue', 'code')
if not job[1] or not is_unprepared(job[2]) then return 0 end
-- The same call again, because its answer was lost.
if job[1] ~= 'created' then return job[3] == code and 1 or 0 end
finish_waiting(id, {'code', code, 'error', error_text}, ttl_us)
return 1
