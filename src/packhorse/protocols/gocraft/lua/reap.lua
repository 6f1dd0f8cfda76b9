-- Put jobs of a dead pool back, and release exactly the locks that they held.
--
-- KEYS[1]   hash    heartbeat of the dead pool
-- KEYS[2]   list    its in-progress list
-- KEYS[3]   list    queue
-- KEYS[4]   string  lock
-- KEYS[5]   hash    lock_info
-- KEYS[6]   zset    dead
-- ARGV[1]   pool id
-- ARGV[2]   heartbeat_at as it was seen ('' = no heartbeat): another value now means that the pool lives
-- ARGV[3]   'head' (behind everything that waits, as Go's reaper does) or 'tail' (first to run)
-- ARGV[4]   most jobs to move
-- ARGV[5]   score for dead, then pairs: payload that must not run again, payload for the dead set
-- returns   number moved, -1 if the pool lives
local seen = redis.call('HGET', KEYS[1], 'heartbeat_at') or ''
if seen ~= ARGV[2] then return -1 end
for i, wanted in pairs({[2] = 'list', [3] = 'list', [6] = 'zset'}) do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= wanted and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. kind .. ', not a ' .. wanted)
  end
end
local moved = 0
for i = 6, #ARGV, 2 do
  if redis.call('LREM', KEYS[2], -1, ARGV[i]) == 1 then
    redis.call('ZADD', KEYS[6], ARGV[5], ARGV[i + 1])
    moved = moved + 1
  end
end
local most = tonumber(ARGV[4])
while moved < most do
  -- To the head the oldest goes first; to the tail it goes last, so that it is taken first again.
  local from, to = 'RIGHT', 'LEFT'
  if ARGV[3] == 'tail' then from, to = 'LEFT', 'RIGHT' end
  if not redis.call('LMOVE', KEYS[2], KEYS[3], from, to) then break end
  moved = moved + 1
end
if moved > 0 then
  redis.pcall('DECRBY', KEYS[4], moved)
  redis.pcall('HINCRBY', KEYS[5], ARGV[1], -moved)
end
return moved
