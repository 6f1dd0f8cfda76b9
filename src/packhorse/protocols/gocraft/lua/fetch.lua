-- Take up to ARGV[2] jobs in one step. Nothing is written for a name before everything it needs was checked.
--
-- KEYS[1]   set     worker_pools
-- KEYS[2..] six per name: queue (list), in-progress list of this pool (list), paused (string), lock (string),
--           lock_info (hash), max_concurrency (string)
-- ARGV[1]   pool id
-- ARGV[2]   most jobs in all
-- ARGV[3]   most jobs from names that are not quick
-- ARGV[4..] two per name: share of the batch, 1 if the name is quick
-- returns   false if the pool is not in worker_pools (it must register first), else one entry per name:
--           {left in the queue, state, payload, payload, ...}, oldest first; state 0 = open, 1 = paused, 2 = at its limit,
--           or a text that says which key is wrong
local pool = ARGV[1]
if redis.call('SISMEMBER', KEYS[1], pool) == 0 then return false end
local left, slow_left = tonumber(ARGV[2]), tonumber(ARGV[3])
local names = (#KEYS - 1) / 6
local found, result = {}, {}
local PORTION = 1000

local function integer(value)
  return type(value) == 'string' and #value < 16 and string.match(value, '^%-?%d+$') ~= nil
end

local function look(i)
  local k = (i - 1) * 6 + 1
  local state = {depth = 0, room = 0, taken = {}, why = 0}
  local depth = redis.pcall('LLEN', KEYS[k + 1])
  if type(depth) ~= 'number' then
    state.why = KEYS[k + 1] .. ' is no list'
    return state
  end
  state.depth = depth
  if depth == 0 then return state end
  if redis.call('EXISTS', KEYS[k + 3]) == 1 then
    state.why = 1
    return state
  end
  local kind = redis.call('TYPE', KEYS[k + 2]).ok
  if kind ~= 'list' and kind ~= 'none' then
    state.why = KEYS[k + 2] .. ' is no list'
    return state
  end
  local lock = redis.pcall('GET', KEYS[k + 4])
  local held = redis.pcall('HGET', KEYS[k + 5], pool)
  local limit = redis.pcall('GET', KEYS[k + 6])
  -- As strict as INCRBY: what follows the first write must not fail.
  if (lock and not integer(lock)) or (held and not integer(held)) then
    state.why = KEYS[k + 4] .. ' or lock_info is no number'
    return state
  end
  if type(limit) == 'table' then limit = false end
  limit = tonumber(limit or 0) or 0
  state.room = depth
  if limit > 0 then
    state.room = math.min(depth, math.max(limit - tonumber(lock or 0), 0))
    if state.room == 0 then state.why = 2 end
  end
  return state
end

local function take(i, most)
  local state, k, quick = found[i], (i - 1) * 6 + 1, ARGV[3 + i * 2] == '1'
  local n = math.min(most, left, state.room)
  if not quick then n = math.min(n, slow_left) end
  if n <= 0 then return end
  local items = redis.call('LRANGE', KEYS[k + 1], -n, -1)
  -- Trimming first: a script that has freed memory may go on writing when memory is full. Pushed in portions, because
  -- Lua cannot unpack thousands at once, and after the trim nothing may fail.
  redis.call('LTRIM', KEYS[k + 1], 0, -(n + 1))
  for last = n, 1, -PORTION do
    local oldest_first = {}
    for j = last, math.max(last - PORTION + 1, 1), -1 do
      oldest_first[#oldest_first + 1] = items[j]
      state.taken[#state.taken + 1] = items[j]
    end
    redis.call('LPUSH', KEYS[k + 2], unpack(oldest_first))
  end
  redis.call('INCRBY', KEYS[k + 4], n)
  redis.call('HINCRBY', KEYS[k + 5], pool, n)
  state.depth, state.room, left = state.depth - n, state.room - n, left - n
  if state.room == 0 and state.depth > 0 then state.why = 2 end
  if not quick then slow_left = slow_left - n end
end

for i = 1, names do found[i] = look(i) end
for i = 1, names do take(i, tonumber(ARGV[2 + i * 2])) end
for i = 1, names do take(i, left) end
for i = 1, names do
  local row = {found[i].depth, found[i].why}
  for j = 1, #found[i].taken do row[j + 2] = found[i].taken[j] end
  result[i] = row
end
return result
