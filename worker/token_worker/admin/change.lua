-- Changes the entries of one token, all or none, and only if each is still what it was when read.
--
-- KEYS  entries, each once
-- ARGV  for each: the value as it was read ('' where there was none), the new value ('' to delete it; the same to leave it)
-- Returns 1 changed, 0 another has changed one of them. A time to live stays.
for i = 1, #KEYS do
  if (redis.pcall('GET', KEYS[i]) or '') ~= ARGV[2 * i - 1] then
    return 0
  end
end
for i = 1, #KEYS do
  local old, new = ARGV[2 * i - 1], ARGV[2 * i]
  if new ~= old then
    if new == '' then
      redis.call('DEL', KEYS[i])
    else
      redis.call('SET', KEYS[i], new, 'KEEPTTL')
    end
  end
end
return 1
