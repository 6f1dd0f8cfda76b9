-- Delete jobs at rest, each only if it is still there byte for byte, and the unique keys that they hold.
--
-- KEYS[1]   zset or list  where they lie
-- KEYS[2..] strings       unique keys
-- ARGV      two per job: payload, index into KEYS of the unique key that it holds (0 = none)
-- returns   number deleted
local kind, deleted = redis.call('TYPE', KEYS[1]).ok, 0
for i = 1, #ARGV, 2 do
  local gone = 0
  if kind == 'zset' then
    gone = redis.call('ZREM', KEYS[1], ARGV[i])
  elseif kind == 'list' then
    gone = redis.call('LREM', KEYS[1], -1, ARGV[i])
  end
  if gone == 1 then
    deleted = deleted + 1
    local held = KEYS[tonumber(ARGV[i + 1])]
    if held then redis.call('DEL', held) end
  end
end
return deleted
