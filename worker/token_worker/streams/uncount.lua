-- Takes tries back that must not count, of entries that are still the caller's. Running it twice changes nothing more.
--
-- KEYS[1]  request stream
-- ARGV     group, consumer; then for each entry its id, and the delivery count that the try made
-- Returns how many were taken back. The others are not the caller's any more (acknowledged, or another worker has them and
-- tries them by now), or their count is another one: that try was never counted, or it was taken back before
local group, consumer = ARGV[1], ARGV[2]

local taken_back = 0
for i = 3, #ARGV, 2 do
  local id, deliveries = ARGV[i], tonumber(ARGV[i + 1])
  local found = redis.call('XPENDING', KEYS[1], group, id, id, 1, consumer)[1]
  if found and found[4] == deliveries then
    redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'RETRYCOUNT', deliveries - 1, 'JUSTID')
    taken_back = taken_back + 1
  end
end
return taken_back
