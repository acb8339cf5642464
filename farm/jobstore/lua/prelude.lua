-- The job store in Redis. Every script of this folder runs after this text; no state changes anywhere else.
--
-- P is the prefix of all keys; may_go(from, to) is the table of transitions. Times are microseconds by Redis's own clock; ids are UUIDs.
--
--   P job:{id}                    HASH    the record: state, sequence, caller, endpoint, model, priority, lane, batch_key, cost, turn,
--                                         images, request (JSON), attempt, fence, worker, mates (others
--                                         in its batch), solo, step, code, error, result (JSON), idempotency, created_us, started_us, finished_us,
--                                         stopping (the code with which it ends when its worker has stopped),
--                                         dialect, inline, webhook (URL), receiver (its scheme, host and port), webhook_events (states, comma-separated),
--                                         takes (how often a preparer took it), start_by_us (when it must have been started), keep_us (how long it is
--                                         kept after its end, if not for as long as may be), once (it may not be tried again), blank (what its
--                                         request becomes with its end), direct (the key of the direct calls that are equal to the one that brought it),
--                                         hint (the caller's word for jobs that prefer one worker), hint_until_us (how long it is left to that one),
--                                         render_by_us (when its present start must have come to its end), retry_of (the failed job that this
--                                         one repeats), retried_as (the job that repeats this one)
--
-- A lane is a line of jobs: {model}:{priority}, or unprepared:{priority} for those that are not ready for a GPU yet.
--
--   P waiting:{lane}              ZSET    id → turn: who is next; taken-back jobs have negative turns
--   P since:{lane}                ZSET    id → created_us: the same jobs by age
--   P since:unprepared:{model}    ZSET    the same of jobs that are not prepared yet, also of those that a preparer has
--   P asked:{lane}                ZSET    caller → virtual time at which its last accepted job would end
--   P given:{lane}                ZSET    caller → the same of its last claimed job; both forget whose time is over
--   P clock:{lane}                STRING  virtual time: the turn of the last job that was taken
--   P mates:{batch_key}:{priority} ZSET   id → turn: waiting jobs that may share a batch
--   P preparing, P suspects       ZSET    id → when its preparer's right to it ends, for the first time and after it was lost
--   P places                      HASH    caller → its jobs in these two
--   P hint:{caller}:{hint}        STRING  the worker that took the last job with this hint; expires
--   P paused                      STRING  no worker takes anything while it stands
--   P delayed                     ZSET    id → when it may be tried again
--   P start_by                    ZSET    id → when it must have been started, of jobs in state created
--   P direct:{caller}:{digest}    ZSET    id → until when somebody waits for it, as far as is known: a moment ahead while one does, when the
--                                         last one hung up, inf once one was told where it will be, -1 once it was answered: jobs of equal
--                                         direct calls
--   P calls:{id}                  SET     the direct calls that wait for a job
--   P joined:{call}               STRING  the job with which a direct call went on; expires, for it is for repeated submits only
--   P letting_go                  ZSET    id → until when a direct call that is sent again may go on with the job; put off while one waits
--   P leases                      ZSET    id → when its worker's right to it ends
--   P render_by                   ZSET    id → when its present start must have come to its end, of jobs in state processing
--   P expiry                      ZSET    id → when a finished job is forgotten
--   P waiting_count               HASH    caller → its jobs in state created
--   P spent:{caller}              HASH    what it has used up of its limits: busy_until_us (when all that it has submitted would be
--                                         over, were it submitted at its rate), day (since 1970, UTC) and the images of that; expires
--   P jobs, P jobs:{caller}       ZSET    id → created_us
--   P idempotency:{caller}:{key}  STRING  id and digest of the body; expires a day after the job's end
--   P outbox                      STREAM  one entry a change of state, written in the same step
--   P delivery:{id}               HASH    a call to a webhook: job, caller, receiver, url (of a test), event, sequence, state, fence, told
--                                         (the last fence whose outcome is known), tries, by_hand, again, created_us, due_us.
--                                         Its id is {job}-{sequence}. The caller and the receiver together are its line
--   P attempts:{id}               LIST    the last tries of a delivery, as JSON
--   P deliveries, P deliveries:{caller} ZSET id → created_us
--   P due:{line}                  ZSET    delivery → when it is to be tried
--   P posting:{line}              ZSET    delivery → when the right to try it ends
--   P posting_of:{caller}         ZSET    the same, of all its receivers
--   P taken:{nonce}               STRING  what a courier's call was given, to answer the same call the same way; expires
--   P lines                       ZSET    line → when to look at it next
--   P faults                      HASH    line → its failures in a row
--   P secret:{caller}             STRING  what signs its webhooks
--   P signing_key                 STRING  the ED25519 key of fal's webhooks
--   P base                        STRING  the address under which the API says it is reached
--   P workers                     ZSET    worker → its last sign of life
--   P worker:{worker}             HASH    what it is and does; nonce and claimed: its last claim, to answer a repeated call the same
--                                         way; present: the virtual time of its shares; drain: it is to take nothing more, and to leave
--   P dismissed:{host}:{pid}      STRING  the worker that was this process was told to leave; expires
--   P shares:{worker}             ZSET    caller → virtual time up to which it has worked for that one, over all its models; forgets
--                                         whose time is over
--   P idle:{model}                SET     workers that looked for work and found none
--   P models                      HASH    model → JSON of what serves it, and when that was last seen
--   P totals                      HASH    counters since the beginning, for metrics
--   P fence                       STRING  the last fence
--   P upload:{ticket}             HASH    an upload that was announced: caller, key, content_type, size, in_parts, settled (the digest
--                                         of what came); expires
--   P upload_parts:{ticket}       HASH    number → digest and bytes of a part that came; expires
--   P uploaded:{caller}           STRING  bytes that it has uploaded within the time that uploads are kept; expires
--   P farm                        STRING  the farm's own id; the storage bears it as a mark
--   P sweep:turn                  STRING  somebody looks through a part of the storage; expires
--   P sweep:reached               STRING  how far that got
--
-- Channels: P changes:{id} (the record changed), P stop (an id whose rendering must stop), P due (a delivery is due), P unprepared (a job
-- is to be prepared). Hints only.

local SECOND_US = 1000000
local HOUR_US = 3600 * SECOND_US
local DAY_US = 24 * HOUR_US
-- For so long a direct call whose caller hung up may be asked for again.
local AGAIN_US = 30 * SECOND_US
-- For so long a direct call is believed to wait after the last sign of life of its API.
local HOLD_US = 3 * SECOND_US
-- For so long a job is left to the worker that its hint prefers.
local HINT_US = SECOND_US

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function whole(number) return string.format('%.0f', number) end

local function job_key(id) return P .. 'job:' .. id end

-- Forget that the caller of `id` has one more job waiting.
local function uncount(caller)
  if redis.call('HINCRBY', P .. 'waiting_count', caller, -1) <= 0 then
    redis.call('HDEL', P .. 'waiting_count', caller)
  end
end

-- Tell those who watch a job that its record changed.
local function tell(id) redis.call('PUBLISH', P .. 'changes:' .. id, '') end

-- Callers do not wait for one another, although they may have one receiver.
local function line_of(caller, receiver) return caller .. ' ' .. receiver end

-- When to look at a line next: when a try must be over, or, where there is room, when its first delivery is due.
local function look_again(line, room)
  local posting = redis.call('ZRANGE', P .. 'posting:' .. line, 0, 0, 'WITHSCORES')
  local due = room and redis.call('ZRANGE', P .. 'due:' .. line, 0, 0, 'WITHSCORES') or {}
  local at = math.min(tonumber(posting[2] or math.huge), tonumber(due[2] or math.huge))
  if at < math.huge then
    redis.call('ZADD', P .. 'lines', whole(at), line)
  else
    redis.call('ZREM', P .. 'lines', line)
  end
end

-- A delivery is to be tried at `at`.
local function deliver_at(id, line, at)
  redis.call('ZADD', P .. 'due:' .. line, whole(at), id)
  redis.call('HSET', P .. 'delivery:' .. id, 'due_us', whole(at))
  look_again(line, true)
  redis.call('PUBLISH', P .. 'due', '')
end

-- Nobody tries it any more.
local function stop_posting(id, caller, line)
  redis.call('ZREM', P .. 'posting:' .. line, id)
  redis.call('ZREM', P .. 'posting_of:' .. caller, id)
end

-- One script may line up several; a microsecond apart they have an order, by which they are shown.
local lined_up = 0

local function line_up_delivery(id, fields)
  local caller, receiver, time = fields.caller, fields.receiver, whole(now() + lined_up)
  lined_up = lined_up + 1
  redis.call('HSET', P .. 'delivery:' .. id, 'job', fields.job, 'caller', caller, 'receiver', receiver, 'event', fields.event,
    'sequence', fields.sequence, 'state', 'waiting', 'fence', 0, 'tries', 0, 'created_us', time)
  redis.call('ZADD', P .. 'deliveries', time, id)
  redis.call('ZADD', P .. 'deliveries:' .. caller, time, id)
  redis.call('HINCRBY', P .. 'totals', 'deliveries:waiting', 1)
  deliver_at(id, line_of(caller, receiver), time)
end

local function forget_delivery(id)
  local key = P .. 'delivery:' .. id
  local delivery = redis.call('HMGET', key, 'caller', 'receiver', 'state')
  if not delivery[1] then return end
  local line = line_of(delivery[1], delivery[2])
  redis.call('DEL', key, P .. 'attempts:' .. id)
  redis.call('ZREM', P .. 'deliveries', id)
  redis.call('ZREM', P .. 'deliveries:' .. delivery[1], id)
  redis.call('ZREM', P .. 'due:' .. line, id)
  stop_posting(id, delivery[1], line)
  if delivery[3] == 'waiting' then redis.call('HINCRBY', P .. 'totals', 'deliveries:waiting', -1) end
  look_again(line, true)
  if not redis.call('ZSCORE', P .. 'lines', line) then redis.call('HDEL', P .. 'faults', line) end
end

-- Is there nothing left to tell of a job's end, or of a test?
local function is_told(id)
  local sequence = redis.call('HGET', job_key(id), 'sequence') or 0
  return redis.call('HGET', P .. 'delivery:' .. id .. '-' .. sequence, 'state') ~= 'waiting'
end

-- Is this the first time that the job is in this state? Coming back from a dead worker is no news for a receiver.
local function is_news(state, sequence)
  return (state == 'created' and sequence == 1) or (state == 'processing' and sequence == 2)
    or state == 'completed' or state == 'failed'
end

-- Write the event of a job's present state, line up its delivery where a webhook wants it, and tell those who watch.
local function announce(id, state, sequence)
  local job = redis.call('HMGET', job_key(id), 'caller', 'endpoint', 'code', 'webhook_events', 'receiver')
  -- Bounded: it is a log for observers, who find the truth in the record.
  redis.call('XADD', P .. 'outbox', 'MAXLEN', '~', 100000, '*',
    'job', id, 'state', state, 'sequence', sequence, 'caller', job[1], 'endpoint', job[2], 'code', job[3] or '')
  if job[4] and is_news(state, sequence) and string.find(',' .. job[4] .. ',', ',' .. state .. ',', 1, true) then
    line_up_delivery(id .. '-' .. sequence, {job = id, caller = job[1], receiver = job[5], event = state, sequence = sequence})
  end
  tell(id)
end

-- The only way to change a state. False, and nothing written, where the table of transitions does not allow it.
local function transition(id, to)
  local key = job_key(id)
  local from = redis.call('HGET', key, 'state')
  if not from or not may_go(from, to) then return false end
  redis.call('HSET', key, 'state', to)
  announce(id, to, redis.call('HINCRBY', key, 'sequence', 1))
  return true
end

-- A caller's jobs start one after another in virtual time, each after the cost of the one before; whoever was away
-- starts at the present. So callers share in turn, by the work they ask for.
local function next_turn(lane, caller, cost)
  local clock = tonumber(redis.call('GET', P .. 'clock:' .. lane) or 0)
  local turn = math.max(clock, tonumber(redis.call('ZSCORE', P .. 'asked:' .. lane, caller) or 0))
  redis.call('ZADD', P .. 'asked:' .. lane, turn + cost, caller)
  return turn
end

-- A caller that cancelled all it had waiting goes on where its claimed jobs end: it pays for no work it did not get.
local function charge_only_what_was_claimed(lane, caller)
  if redis.call('HEXISTS', P .. 'waiting_count', caller) == 1 then return end
  redis.call('ZADD', P .. 'asked:' .. lane, redis.call('ZSCORE', P .. 'given:' .. lane, caller) or 0, caller)
end

-- The job whose turn it was is taken: virtual time goes on, and a caller whose time it has passed is as good as new.
local function advance(lane, turn)
  if turn <= tonumber(redis.call('GET', P .. 'clock:' .. lane) or 0) then return end
  redis.call('SET', P .. 'clock:' .. lane, turn)
  redis.call('ZREMRANGEBYSCORE', P .. 'asked:' .. lane, '-inf', turn)
  redis.call('ZREMRANGEBYSCORE', P .. 'given:' .. lane, '-inf', turn)
end

-- Low priority gets one turn in eight even while normal jobs wait, so that it is never starved.
local function priorities(counter)
  if redis.call('HINCRBY', P .. 'totals', counter, 1) % 8 == 0 then return {'low', 'normal'} end
  return {'normal', 'low'}
end

-- Before all that have a turn, in the order of their coming back.
local function front_turn() return now() - 4e15 end

-- Whether a lane is one of those that are not for a GPU.
local function is_unprepared(lane) return string.sub(lane, 1, 11) == 'unprepared:' end

-- Where the jobs of a lane stand by age.
local function since_key(lane, model) return P .. 'since:' .. (is_unprepared(lane) and 'unprepared:' .. model or lane) end

-- Where those wait that may share a batch. The turns of two priorities are of two lines, and cannot be compared.
local function mates_key(batch_key, priority) return P .. 'mates:' .. batch_key .. ':' .. priority end

local function stand_in_line(id, turn, lane, model, created_us)
  redis.call('ZADD', P .. 'waiting:' .. lane, turn, id)
  redis.call('ZADD', since_key(lane, model), created_us, id)
end

-- A job that comes back, before all others.
local function line_up_again(id)
  local job = redis.call('HMGET', job_key(id), 'lane', 'batch_key', 'solo', 'created_us', 'model', 'priority')
  local turn = front_turn()
  stand_in_line(id, turn, job[1], job[5], job[4])
  if job[3] ~= '1' then redis.call('ZADD', mates_key(job[2], job[6]), turn, id) end
end

-- A job leaves its place in its lane, or its preparer. It still counts as one that waits, and keeps its place by age.
local function step_out(id, lane)
  redis.call('ZREM', P .. 'waiting:' .. lane, id)
  if redis.call('ZREM', P .. 'preparing', id) + redis.call('ZREM', P .. 'suspects', id) == 0 then return end
  local caller = redis.call('HGET', job_key(id), 'caller')
  if redis.call('HINCRBY', P .. 'places', caller, -1) <= 0 then redis.call('HDEL', P .. 'places', caller) end
end

local function leave_line(id)
  local job = redis.call('HMGET', job_key(id), 'lane', 'batch_key', 'caller', 'model', 'priority')
  step_out(id, job[1])
  redis.call('ZREM', since_key(job[1], job[4]), id)
  redis.call('ZREM', mates_key(job[2], job[5]), id)
  redis.call('ZREM', P .. 'delayed', id)
  redis.call('ZREM', P .. 'start_by', id)
  uncount(job[3])
end

local function waiting(model)
  return redis.call('ZCARD', P .. 'waiting:' .. model .. ':normal') + redis.call('ZCARD', P .. 'waiting:' .. model .. ':low')
end

local function hint_key(caller, hint) return P .. 'hint:' .. caller .. ':' .. hint end

-- A job with a hint stands in a line for a GPU: for a moment it is left to the worker that the hint prefers.
local function leave_to_preferred(id) redis.call('HSET', job_key(id), 'hint_until_us', whole(now() + HINT_US)) end

-- Whether no worker is to take anything. What was taken before goes on.
local function is_paused() return redis.call('EXISTS', P .. 'paused') == 1 end

-- Somebody waits for this job of a direct call, or did so a moment ago.
local function hold_call(id, direct)
  local until_us = now() + HOLD_US
  redis.call('ZADD', direct, whole(until_us), id)
  redis.call('ZADD', P .. 'letting_go', whole(until_us + AGAIN_US), id)
end

-- Nobody goes on with this job of a direct call any more.
local function let_go(id, direct)
  redis.call('ZREM', direct, id)
  redis.call('DEL', P .. 'calls:' .. id)
  redis.call('ZREM', P .. 'letting_go', id)
end

-- Who sends a direct call again may have the pictures that it did not get; a failure is worth another try.
local function end_direct(id, direct, state)
  local held_until = redis.call('ZSCORE', direct, id)
  if not held_until then return end
  if state == 'failed' then
    let_go(id, direct)
  elseif tonumber(held_until) > now() then
    redis.call('ZADD', direct, -1, id)
    redis.call('ZADD', P .. 'letting_go', whole(now() + AGAIN_US), id)
  end
end

-- A start of a job is over, however it ended.
local function end_start(id)
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'render_by', id)
end

-- How long a job is kept after its end. What was sent inline is kept for an hour, in case that an answer was lost.
local function kept_us(inline, keep_us, ttl_us)
  return math.min(ttl_us, inline and HOUR_US or ttl_us, tonumber(keep_us or ttl_us))
end

-- End a job: `fields` are written with the state. Returns false where it has ended already.
local function finish(id, state, fields, ttl_us)
  local key = job_key(id)
  local job = redis.call('HMGET', key, 'state', 'inline', 'keep_us', 'idempotency', 'direct', 'blank')
  if job[1] == 'created' then leave_line(id) end
  if not may_go(job[1], state) then return false end
  redis.call('HSET', key, 'finished_us', whole(now()), unpack(fields))
  end_start(id)
  redis.call('ZADD', P .. 'expiry', whole(now() + kept_us(job[2], job[3], ttl_us)), id)
  if job[4] then redis.call('PEXPIRE', job[4], DAY_US / 1000) end
  if job[5] then end_direct(id, job[5], state) end
  if job[6] then
    redis.call('HSET', key, 'request', job[6])
    redis.call('HDEL', key, 'blank')
  end
  local code = redis.call('HGET', key, 'code') or ''
  redis.call('HINCRBY', P .. 'totals', 'jobs:' .. state .. ':' .. code, 1)
  return transition(id, state)
end

-- End a job that was to be stopped, with the code that was noted then.
local WHY = {
  cancelled = 'The job was cancelled.',
  client_disconnected = 'Whoever waited for the answer hung up, and did not ask again.',
}
local function finish_stopped(id, code, ttl_us)
  return finish(id, 'failed', {'code', code, 'error', WHY[code]}, ttl_us)
end

-- End a job that never got to a worker: its caller pays nothing for it.
local function finish_waiting(id, fields, ttl_us)
  local job = redis.call('HMGET', job_key(id), 'lane', 'caller')
  finish(id, 'failed', fields, ttl_us)
  charge_only_what_was_claimed(job[1], job[2])
end

-- Stop a job: one that waits ends at once, one that is rendered when its worker has heard of it.
-- Returns 'cancelled' (it ended), 'stopping', 'ended' (before) or 'unknown'
local function stop(id, code, ttl_us)
  local state = redis.call('HGET', job_key(id), 'state')
  if state == 'created' then
    finish_waiting(id, {'code', code, 'error', WHY[code]}, ttl_us)
    return 'cancelled'
  end
  if state == 'processing' then
    redis.call('HSETNX', job_key(id), 'stopping', code)
    local direct = redis.call('HGET', job_key(id), 'direct')
    if direct then let_go(id, direct) end
    redis.call('PUBLISH', P .. 'stop', id)
    return 'stopping'
  end
  return state and 'ended' or 'unknown'
end

-- Is the time over within which a job must have been started?
local function is_late(start_by_us) return start_by_us and tonumber(start_by_us) <= now() end

local function finish_late(id, ttl_us)
  finish_waiting(id, {'code', 'start_timeout', 'error', 'The job was not started within the time that was set for it.'}, ttl_us)
end

-- Take a job that is processing back from its worker: to the front, or, with a delay, to the front when that is over.
local function take_back(id, delay_us)
  local key = job_key(id)
  end_start(id)
  local job = redis.call('HMGET', key, 'caller', 'start_by_us')
  redis.call('HINCRBY', P .. 'waiting_count', job[1], 1)
  -- Its time runs on from its submit, as if nobody had started it.
  if job[2] then redis.call('ZADD', P .. 'start_by', job[2], id) end
  redis.call('HSET', key, 'step', 0)
  transition(id, 'created')
  if delay_us > 0 then
    redis.call('ZADD', P .. 'delayed', whole(now() + delay_us), id)
  else
    line_up_again(id)
  end
end

-- A crash while the job was beside others does not count, for it may be innocent; either way it is alone from now on.
local function isolate(id, mates)
  if mates > 0 then redis.call('HINCRBY', job_key(id), 'attempt', -1) end
  redis.call('HSET', job_key(id), 'solo', 1)
end

-- Its worker gives a job up: no later write of that worker may touch it.
local function drop_fence(id) redis.call('HSET', job_key(id), 'fence', 0) end

-- May the worker that shows this fence still write? Also yes when its lease ran out but nobody claimed the job since.
local function holds(id, fence)
  local job = redis.call('HMGET', job_key(id), 'state', 'fence')
  return job[2] == fence and (job[1] == 'processing' or job[1] == 'created')
end
