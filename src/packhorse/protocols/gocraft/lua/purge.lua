-- Take a whole queue away in one step; whoever enqueues from now on begins a new list.
--
-- KEYS[1]   list  queue
-- KEYS[2]   list  where its jobs lie until their unique keys are freed
-- ARGV[1]   seconds after which the server deletes them, should the caller not come back
-- returns   number of jobs
if redis.call('TYPE', KEYS[1]).ok ~= 'list' then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return redis.call('LLEN', KEYS[2])
