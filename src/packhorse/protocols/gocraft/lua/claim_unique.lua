-- Start a unique job: free its key, and take over the newest payload that a duplicate left there.
--
-- KEYS[1]   list    in-progress list of this pool
-- KEYS[2]   string  unique key
-- ARGV[1]   payload as it lies in the list
-- returns   false if the payload is not ours any more, else the value of the key ('' if there was none); any value but
--           '1' has taken the payload's place in the list, so that a crash from here on loses nothing
local kind = redis.call('TYPE', KEYS[2]).ok
local value = ''
if kind == 'string' then value = redis.call('GET', KEYS[2]) end
if value == '' or value == '1' then
  if not redis.call('LPOS', KEYS[1], ARGV[1]) then return false end
else
  if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return false end
  redis.call('LPUSH', KEYS[1], value)
end
if kind == 'string' then redis.call('DEL', KEYS[2]) end
return value
