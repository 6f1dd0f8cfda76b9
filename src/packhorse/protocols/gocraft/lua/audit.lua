-- Mend the counters of one name: they are a cache of what the pools hold.
--
-- KEYS[1]   string  lock
-- KEYS[2]   hash    lock_info
-- KEYS[3]   list    in-progress list of this pool
-- ARGV[1]   pool id
-- ARGV[2]   1 to drop this pool's field when it is 0 (at its end)
-- returns   0 if all was right, else 1
local wrong = 0
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[2]) wrong = 1 end
local own = redis.pcall('LLEN', KEYS[3])
if type(own) ~= 'number' then return 1 end
local held = redis.call('HGET', KEYS[2], ARGV[1])
if tonumber(held or 0) ~= own then
  redis.call('HSET', KEYS[2], ARGV[1], own)
  wrong = 1
end
if own == 0 and held and ARGV[2] == '1' then redis.call('HDEL', KEYS[2], ARGV[1]) end
local sum, all = 0, redis.call('HGETALL', KEYS[2])
for i = 2, #all, 2 do
  local n = tonumber(all[i]) or 0
  if n < 0 or not tonumber(all[i]) then
    redis.call('HSET', KEYS[2], all[i - 1], 0)
    wrong = 1
  else
    sum = sum + n
  end
end
local lock = redis.pcall('GET', KEYS[1])
if type(lock) == 'table' or (tonumber(lock or 0) ~= sum) then
  redis.call('SET', KEYS[1], sum)
  wrong = 1
end
return wrong
