-- Writes new token entries: of each row both or neither, and only where there is nothing yet.
--
-- KEYS  for each row: its h. entry, its t. entry (an inconsistent token has no h.: its t. stands twice)
-- ARGV  for each row: the new h. value ('' for none), the new t. value
-- Returns for each row: '' written; 'h' .. value: h. exists, holding that; 't' .. value: t. exists, holding that;
--       'x': a key of the row is not a string.
--
-- One script at most touches about 1,000 keys (500 rows): about 3 ms of the server.
local found = redis.call('MGET', unpack(KEYS))
local answers = {}
for i = 1, #KEYS, 2 do
  local h, t = found[i], found[i + 1]
  local h_value = ARGV[i]
  if h and h_value ~= '' then
    answers[#answers + 1] = 'h' .. h
  elseif t then
    answers[#answers + 1] = 't' .. t
  elseif not redis.call('SET', KEYS[i + 1], ARGV[i + 1], 'NX') then
    -- written a moment ago by an earlier row of this call, or no string
    local value = redis.pcall('GET', KEYS[i + 1])
    answers[#answers + 1] = type(value) == 'string' and 't' .. value or 'x'
  else
    if h_value ~= '' then
      redis.call('SET', KEYS[i], h_value, 'NX')
    end
    answers[#answers + 1] = ''
  end
end
return answers
