#!lua flags=allow-oom
-- Takes the turn to trim the streams of a route, or keeps it for longer.
--
-- KEYS[1]  the turn: holds the name of the worker that has it, and lapses
-- ARGV     the caller's name, milliseconds until it lapses
-- Returns 1 if the turn is the caller's, 0 if it is another worker's
--
-- The flag lets the script write at the memory limit of the server: there trimming is needed most.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
