-- Removes the notes of workers whose consumer is gone from a group.
--
-- KEYS[1]  request stream
-- KEYS[2]  the hash of notes, see own_keys
-- ARGV[1]  group
-- ARGV[2]  seconds for which a note stays without a consumer: a worker that starts writes one before it reads
-- Returns the number of notes removed
local notes = redis.call('HGETALL', KEYS[2])
local consumers = {}
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if not found.err then
  for _, raw in ipairs(found) do
    consumers[map(raw).name] = true
  end
end
local now = tonumber(redis.call('TIME')[1])
local removed = 0
for i = 1, #notes, 2 do
  local at = tonumber(notes[i + 1]:match('"at":(%d+)')) or 0
  if not consumers[notes[i]] and math.abs(now - at) > tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[2], notes[i])
    removed = removed + 1
  end
end
return removed
