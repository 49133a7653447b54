-- Replaces a key, and keeps the one before it under a name of the history, as Acra does; both or neither.
--
-- KEYS[1]  the key
-- KEYS[2]  the name in the history
-- ARGV[1]  the key as it was read
-- ARGV[2]  the same key for the history: as it was read, or sealed again
-- ARGV[3]  the new key
-- Returns 1 rotated, 0 nothing done: the key has changed, or the name is taken
--
-- The history is written first: scripts do not roll back, and a key that is there twice is better than one that is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if not redis.call('SET', KEYS[2], ARGV[2], 'NX') then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3])
return 1
