-- Deletes a key that is still what it was when read, and the record of it.
--
-- KEYS[1]  the key
-- KEYS[2]  the record
-- ARGV[1]  the key as it was read
-- Returns 1 deleted, 0 nothing done: it has changed, or does not exist
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
