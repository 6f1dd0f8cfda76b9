-- Which queues have something in them.
--
-- KEYS      lists
-- returns   the positions (from 1) of those that are not empty
local found = {}
for i = 1, #KEYS do
  local depth = redis.pcall('LLEN', KEYS[i])
  if type(depth) == 'number' and depth > 0 then found[#found + 1] = i end
end
return found
