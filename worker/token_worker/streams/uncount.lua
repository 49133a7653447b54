-- Takes a try alone back that failed for no fault of the entry, if the entry is still the caller's.
--
-- KEYS[1]  request stream
-- ARGV     group, consumer, entry id
-- Returns 1 taken back, 0 not ours any more: acknowledged, or another worker has it by now, and tries it
local group, consumer, id = unpack(ARGV)

local found = redis.call('XPENDING', KEYS[1], group, id, id, 1, consumer)[1]
if not found then
  return 0
end
redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'RETRYCOUNT', found[4] - 1, 'JUSTID')
return 1
