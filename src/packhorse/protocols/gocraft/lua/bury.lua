-- Take a dead pool off the books, once none of its lists has anything left.
--
-- KEYS[1]   hash    its heartbeat
-- KEYS[2]   set     worker_pools
-- KEYS[3..] three per name: in-progress list (list), lock (string), lock_info (hash)
-- ARGV[1]   pool id
-- ARGV[2]   heartbeat_at as it was seen ('' = no heartbeat)
-- returns   1 if done, 0 if a list still has jobs, -1 if the pool lives
local seen = redis.call('HGET', KEYS[1], 'heartbeat_at') or ''
if seen ~= ARGV[2] then return -1 end
for i = 3, #KEYS, 3 do
  if redis.call('TYPE', KEYS[i]).ok == 'list' then return 0 end
end
for i = 3, #KEYS, 3 do
  local held = redis.pcall('HGET', KEYS[i + 2], ARGV[1])
  if type(held) == 'string' then
    local now = redis.pcall('DECRBY', KEYS[i + 1], held)
    redis.call('HDEL', KEYS[i + 2], ARGV[1])
    if type(now) == 'number' and now < 0 then redis.call('SET', KEYS[i + 1], 0) end
  end
end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
return 1
