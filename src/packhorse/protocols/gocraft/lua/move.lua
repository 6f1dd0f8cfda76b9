-- Move members out of a zset, each only if it is still there byte for byte.
--
-- KEYS[1]   zset    source
-- KEYS[2]   zset    dead
-- KEYS[3..] lists   targets
-- ARGV      four per member: old bytes, index into KEYS (2 = dead), score for dead, new bytes
-- returns   {number moved, texts for targets of the wrong type}
local moved, wrong, good = 0, {}, {}
for i = 2, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  good[i] = kind == 'none' or kind == (i == 2 and 'zset' or 'list')
  if not good[i] then wrong[#wrong + 1] = KEYS[i] .. ' is a ' .. kind end
end
for i = 1, #ARGV, 4 do
  local target = tonumber(ARGV[i + 1])
  if good[target] and redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    if target == 2 then
      redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i + 3])
    else
      redis.call('LPUSH', KEYS[target], ARGV[i + 3])
    end
    moved = moved + 1
  end
end
return {moved, wrong}
