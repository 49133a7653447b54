-- Writes h. entries for t. entries that exist and were opened: they hold the very values, and were enabled.
--
-- KEYS  for each row: its h. entry, its t. entry
-- ARGV  for each row: the new h. value, the t. value as it was read
-- Returns for each row: '' written; 'h' .. value: h. exists, holding that; 'c': the t. entry has changed since;
--       'x': h. is not a string.
local found = redis.call('MGET', unpack(KEYS))
local answers = {}
for i = 1, #KEYS, 2 do
  if found[i + 1] ~= ARGV[i + 1] then
    answers[#answers + 1] = 'c'
  elseif redis.call('SET', KEYS[i], ARGV[i], 'NX') then
    answers[#answers + 1] = ''
  else
    local value = redis.pcall('GET', KEYS[i])
    answers[#answers + 1] = type(value) == 'string' and 'h' .. value or 'x'
  end
end
return answers
