-- Takes from all buckets (KEYS) or from none, after the rule in gcra.rs. For each bucket ARGV has three whole numbers:
-- the interval of one unit and the capacity, in microseconds, and the cost in microseconds, which is at most the capacity.
-- After these, 1 charges each bucket whether it has enough or not; it then owes as much as it holds at most.
-- Answers four numbers for each: allowed (1 or 0), microseconds until it is full, until it has enough, and units left;
-- and, last, the clock in microseconds.
-- The clock is Redis's own: those of the processes that ask differ. Microseconds since 1970 are exact in a Lua number.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local charged = ARGV[3 * #KEYS + 1] == '1'
local all = true
local stood, start, wait = {}, {}, {}
for i, key in ipairs(KEYS) do
  local capacity, cost = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  stood[i] = tonumber(redis.call('GET', key) or '0') or 0
  start[i] = math.min(math.max(stood[i], now), now + 2 * capacity)
  wait[i] = math.max(start[i] + cost - now - capacity, 0)
  all = all and wait[i] == 0
end

local answer = {}
for i, key in ipairs(KEYS) do
  local interval, capacity, cost = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local full_at = (all or charged) and math.min(start[i] + cost, now + 2 * capacity) or start[i]
  -- A refusal writes only what makes a bucket whole again that owed more than it may.
  if full_at > now and (all or charged or start[i] < stood[i]) then
    -- A bucket that is full is one that is not there: the key goes once that time has come. Redis counts from the
    -- millisecond in which the script began, hence one more.
    local milliseconds = math.ceil((full_at - now) / 1000) + 1
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', string.format('%.0f', milliseconds))
  end
  local reset = full_at - now
  answer[#answer + 1] = wait[i] == 0 and 1 or 0
  answer[#answer + 1] = reset
  answer[#answer + 1] = wait[i]
  answer[#answer + 1] = math.max(math.floor((capacity - reset) / interval), 0)
end
answer[#answer + 1] = now
return answer
