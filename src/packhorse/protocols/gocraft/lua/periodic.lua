-- Schedule fire times of periodic jobs, each once: a mark stays after the job itself has been moved on.
--
-- KEYS[1]   zset    scheduled
-- KEYS[2]   zset    marks: id of the periodic job -> its fire time
-- ARGV[1]   epoch second before which marks are forgotten
-- ARGV[2..] three per fire time: epoch second, id, payload
-- returns   number scheduled
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. kind .. ', not a zset')
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1])
local added = 0
for i = 2, #ARGV, 3 do
  if redis.call('ZADD', KEYS[2], 'NX', ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 2])
    added = added + 1
  end
end
return added
