-- Removes consumers from a group that hold nothing; XGROUP DELCONSUMER would drop what they hold.
--
-- KEYS[1]  request stream
-- ARGV[1]  group
-- ARGV[2]  idle milliseconds from which on a consumer is removed
-- ARGV[3]  name of the only consumer to look at, '' for all
-- Returns the number of consumers removed; 0 where stream or group are gone.
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if found.err then
  return 0
end
local removed = 0
for _, raw in ipairs(found) do
  local consumer = map(raw)
  local is_meant = ARGV[3] == '' or consumer.name == ARGV[3]
  if is_meant and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    removed = removed + 1
  end
end
return removed
