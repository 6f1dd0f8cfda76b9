-- End many deliveries in one step. Each one is ours only if its bytes are still in our in-progress list.
--
-- KEYS[1..3] zsets retry, dead, scheduled
-- KEYS[4..]  four per group: in-progress list of this pool (list), queue (list), lock (string), lock_info (hash)
-- ARGV[1]    pool id
-- ARGV[2..]  per group: number of plain acks, number of others, the payloads of the acks, then four per other:
--            payload, action (retry, dead, scheduled, queue, drop), score, new payload
-- returns    {positions that were not ours any more, positions that were refused, reason of the first refusal};
--            positions count all entries from 1 in the order given
local pool, at, position = ARGV[1], 2, 0
local zsets = {retry = KEYS[1], dead = KEYS[2], scheduled = KEYS[3]}
local lost, refused, reason, good_type = {}, {}, '', {}

local function is_type(key, wanted)
  if good_type[key] == nil then
    local kind = redis.call('TYPE', key).ok
    good_type[key] = kind == wanted or kind == 'none'
    if not good_type[key] then reason = key .. ' is a ' .. kind .. ', not a ' .. wanted end
  end
  return good_type[key]
end

-- The usual case: what is settled is exactly the oldest part of the list. One trim instead of n searches.
local function trim_acks(list, first, n)
  local tail, count = redis.call('LRANGE', list, -n, -1), {}
  if #tail < n then return false end
  for i = first, first + n - 1 do count[ARGV[i]] = (count[ARGV[i]] or 0) + 1 end
  for i = 1, n do
    local c = count[tail[i]]
    if not c or c == 0 then return false end
    count[tail[i]] = c - 1
  end
  redis.call('LTRIM', list, 0, -(n + 1))
  return true
end

for group = 1, (#KEYS - 3) / 4 do
  local k = (group - 1) * 4 + 4
  local list, queue, lock, lock_info = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local acks, others = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local removed, usable = 0, is_type(list, 'list')
  at = at + 2
  if not usable then
    for i = 1, acks + others do refused[#refused + 1] = position + i end
  elseif acks > 0 then
    if trim_acks(list, at, acks) then
      removed = acks
    else
      for i = 0, acks - 1 do
        if redis.call('LREM', list, -1, ARGV[at + i]) == 1 then
          removed = removed + 1
        else
          lost[#lost + 1] = position + i + 1
        end
      end
    end
  end
  at, position = at + acks, position + acks
  for i = 1, others do
    local raw, action, score, payload = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    at, position = at + 4, position + 1
    if usable then
      local zset = zsets[action]
      if (zset and not is_type(zset, 'zset')) or (action == 'queue' and not is_type(queue, 'list')) then
        refused[#refused + 1] = position
      elseif redis.call('LREM', list, -1, raw) == 0 then
        lost[#lost + 1] = position
      else
        removed = removed + 1
        if zset then
          redis.call('ZADD', zset, score, payload)
        elseif action == 'queue' then
          redis.call('RPUSH', queue, payload)
        end
      end
    end
  end
  if removed > 0 then
    -- Counters are a cache of the lists: a broken one must not stop the settle, the auditor mends it.
    local now = redis.pcall('DECRBY', lock, removed)
    if type(now) == 'number' and now < 0 then redis.call('SET', lock, 0) end
    now = redis.pcall('HINCRBY', lock_info, pool, -removed)
    if type(now) == 'number' and now < 0 then redis.call('HSET', lock_info, pool, 0) end
  end
end
return {lost, refused, reason}
