-- Writes a value entry where there still is the tombstone that was read, or nothing.
--
-- KEYS  the value entry
-- ARGV  the tombstone as it was read, the new value
-- Returns nil: written; else what the entry holds.
local found = redis.call('GET', KEYS[1])
if not found or found == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
  return false
end
return found
