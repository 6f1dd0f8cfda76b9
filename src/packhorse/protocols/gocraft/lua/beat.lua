-- Keep a pool alive for a process that may be too busy to do it. Never brings a buried pool back.
--
-- KEYS[1]   hash    heartbeat
-- ARGV[1]   epoch second
-- returns   1, or 0 if there is no such pool
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'heartbeat_at', ARGV[1])
return 1
