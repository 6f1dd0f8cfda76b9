-- Start a unique job: free its key, and take over the newest payload that a duplicate left there. Only at its first start:
-- after that (it was handed back, or its pool died) the key belongs to a newer job.
--
-- KEYS[1]   list    in-progress list of this pool
-- KEYS[2]   string  unique key
-- KEYS[3]   hash    sha1 of payloads that have started -> 1
-- ARGV[1]   payload as it lies in the list
-- ARGV[2]   seconds after which KEYS[3] may be forgotten if nothing starts
-- returns   false if the payload is not ours any more, else the value of the key ('' if there was none); any value but
--           '1' has taken the payload's place in the list, so that a crash from here on loses nothing
local kind = redis.call('TYPE', KEYS[2]).ok
local hash = redis.call('TYPE', KEYS[3]).ok
if hash ~= 'hash' and hash ~= 'none' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[3] .. ' is a ' .. hash .. ', not a hash')
end
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return false end
if redis.call('HEXISTS', KEYS[3], redis.sha1hex(ARGV[1])) == 1 then return '' end
local value, runs = '', ARGV[1]
if kind == 'string' then value = redis.call('GET', KEYS[2]) end
if value ~= '' and value ~= '1' then
  redis.call('LREM', KEYS[1], -1, ARGV[1])
  redis.call('LPUSH', KEYS[1], value)
  runs = value
end
if kind == 'string' then redis.call('DEL', KEYS[2]) end
redis.call('HSET', KEYS[3], redis.sha1hex(runs), 1)
redis.call('EXPIRE', KEYS[3], ARGV[2])
return value
