-- Enqueue unless an equal job is waiting.
--
-- KEYS[1]   list or zset  queue, or scheduled
-- KEYS[2]   string        unique key
-- ARGV[1]   payload
-- ARGV[2]   value of the unique key: '1', or the payload (a duplicate then replaces what will run)
-- ARGV[3]   seconds the unique key lives
-- ARGV[4]   score, or '' to push to the queue
-- returns   1 if enqueued, 0 if it is a duplicate
local wanted = ARGV[4] == '' and 'list' or 'zset'
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= wanted and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind .. ', not a ' .. wanted)
end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'EX', ARGV[3]) then
  redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
  return 0
end
if ARGV[4] == '' then
  redis.call('LPUSH', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
end
return 1
