-- Replaces entries that are still what they were when read: moves their time of last use, undoes no change of another.
--
-- KEYS  entries
-- ARGV  for each: the value as it was read, the value with the new time
-- Returns how many were replaced. A time to live stays.
local replaced = 0
for i = 1, #KEYS do
  if redis.pcall('GET', KEYS[i]) == ARGV[2 * i - 1] then
    redis.call('SET', KEYS[i], ARGV[2 * i], 'XX', 'KEEPTTL')
    replaced = replaced + 1
  end
end
return replaced
