-- Put payloads of our own in-progress list back that nobody holds (the answer to a fetch was lost).
--
-- KEYS      in-progress list (list), queue (list), lock (string), lock_info (hash)
-- ARGV[1]   pool id, then the payloads
-- returns   number put back
local moved = 0
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'list' and kind ~= 'none' then return 0 end
for i = 2, #ARGV do
  if redis.call('LREM', KEYS[1], -1, ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[2], ARGV[i])
    moved = moved + 1
  end
end
if moved > 0 then
  redis.pcall('DECRBY', KEYS[3], moved)
  redis.pcall('HINCRBY', KEYS[4], ARGV[1], -moved)
end
return moved
