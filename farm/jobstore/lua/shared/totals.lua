-- Counters and histograms, for metrics: `farm/domain/measures.py` has their names, labels and buckets.

local function count_total(field, by) redis.call('HINCRBY', P .. 'totals', field, by or 1) end

-- Count a value of a histogram. `labels` are written ':label:label'.
local function observe(name, labels, value)
  local bounds, bucket = BUCKETS[name], 0
  while bounds[bucket + 1] and value > bounds[bucket + 1] do bucket = bucket + 1 end
  count_total(name .. labels .. ':' .. bucket)
  count_total(name .. labels .. ':sum', integer(value * 1000000))
end

-- Where the work of a job is counted: with what waits, what must be prepared first, or what is rendered.
local function place_of_work(state, queue)
  if state == 'created' then return is_unprepared(queue) and 'unprepared' or 'waiting' end
  return state == 'processing' and state or nil
end

-- Count the work of one job more (1) or less (-1) in a place: its images, and its cost in millionths.
local function count_work(place, model, by, images, cost)
  local work, field = P .. 'work', place .. ':' .. model
  if redis.call('HINCRBY', work, field .. ':images', by * images) <= 0 then redis.call('HDEL', work, field .. ':images') end
  if redis.call('HINCRBY', work, field .. ':cost', integer(by * cost * 1000000)) <= 0 then redis.call('HDEL', work, field .. ':cost') end
end

-- Count the end of a caller's job. The callers with the most images have counters of their own; all others share one.
local function count_for_caller(caller, state, images)
  redis.call('ZINCRBY', P .. 'caller_images', state == 'completed' and images or 0, caller)
  local name = redis.call('ZREVRANK', P .. 'caller_images', caller) < MAX_CALLERS and caller or OTHER_CALLERS
  count_total('caller_jobs:' .. name .. ':' .. state)
  if state == 'completed' then count_total('caller_images:' .. name, images) end
end
