-- Replaces a string that is still what it was when read: a key sealed again, or a record.
--
-- KEYS[1]  the string
-- ARGV[1]  its value as it was read
-- ARGV[2]  its new value
-- Returns 1 replaced, 0 nothing done: it has changed, or does not exist
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
