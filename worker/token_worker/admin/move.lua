-- Moves a key to another name, and keeps a record of it.
--
-- KEYS[1]  the key
-- KEYS[2]  its new name
-- KEYS[3]  the record
-- ARGV[1]  the key as it was read
-- ARGV[2]  the same key to be written: as it was read, or sealed again
-- ARGV[3]  the record's new value; '' deletes it
-- Returns 1 moved, 0 nothing done: the key has changed, or does not exist, or KEYS[2] holds something else than ARGV[2]
--
-- The key is deleted last: scripts do not roll back, and a key that is there twice is better than one that is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if (redis.call('GET', KEYS[2]) or ARGV[2]) ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2])
if ARGV[3] == '' then
  redis.call('DEL', KEYS[3])
else
  redis.call('SET', KEYS[3], ARGV[3])
end
redis.call('DEL', KEYS[1])
return 1
