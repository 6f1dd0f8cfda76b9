-- Mend the counters of one name: they are a cache of what the pools hold.
--
-- KEYS[1]   string  lock
-- KEYS[2]   hash    lock_info
-- KEYS[3]   list    in-progress list of this pool
-- KEYS[4]   set     worker_pools
-- KEYS[5..] lists   in-progress lists of the other pools in lock_info, as ARGV[3..] names them
-- ARGV[1]   pool id
-- ARGV[2]   1 to drop this pool's field when it is 0 (at its end)
-- returns   0 if all was right, 1 if something was mended, or a text that names a key of a wrong type: it is left alone,
--           for a list at `wat:lock` may be the queue of a job with that name
local wrong = 0
for i, wanted in ipairs({'string', 'hash', 'list'}) do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= wanted and kind ~= 'none' then return KEYS[i] .. ' is a ' .. kind .. ', not a ' .. wanted end
end
for i = 5, #KEYS do
  -- A field of a pool that is gone and holds nothing was leaked: it would keep a limit reached for ever.
  if redis.call('SISMEMBER', KEYS[4], ARGV[i - 2]) == 0 and redis.call('EXISTS', KEYS[i]) == 0 then
    if redis.call('HDEL', KEYS[2], ARGV[i - 2]) == 1 then wrong = 1 end
  end
end
local own = redis.call('LLEN', KEYS[3])
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
if tonumber(redis.call('GET', KEYS[1]) or 0) ~= sum then
  redis.call('SET', KEYS[1], sum)
  wrong = 1
end
return wrong
