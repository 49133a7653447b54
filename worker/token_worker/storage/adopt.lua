-- Writes value entries for token entries that exist and were opened: they hold the very values, and were enabled.
--
-- KEYS  for each row: its value entry, its token entry
-- ARGV  for each row: the new value entry, the token entry as it was read, the tombstone that the value entry may
--       replace ('' for none)
-- Returns for each row: '' written; 'h' .. value: the value entry exists, holding that; 'c': the token entry has changed
--       since; 'x': the value entry is not a string.
local found = redis.call('MGET', unpack(KEYS))
local answers = {}
for i = 1, #KEYS, 2 do
  local row = (i - 1) / 2 * 3
  local h_old = ARGV[row + 3]
  local h = redis.pcall('GET', KEYS[i])
  if found[i + 1] ~= ARGV[row + 2] then
    answers[#answers + 1] = 'c'
  elseif not h or (h_old ~= '' and h == h_old) then
    redis.call('SET', KEYS[i], ARGV[row + 1])
    answers[#answers + 1] = ''
  else
    answers[#answers + 1] = type(h) == 'string' and 'h' .. h or 'x'
  end
end
return answers
