-- Writes new token entries: of each row both or neither, and only where there is nothing yet.
--
-- KEYS  for each row: its h. entry, its t. entry (an inconsistent token has no h.: its t. stands twice)
-- ARGV  for each row: the new h. value ('' for none), the new t. value
-- Returns for each row: '' written; 'h' .. value: h. exists, holding that; 't' .. value: t. exists, holding that;
--       'x': a key of the row is not a string.
--
-- One script at most touches about 1,000 keys (500 rows): about 3 ms of the server.
local function taken(kind, key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and kind .. value or 'x'
end

local found = redis.call('MGET', unpack(KEYS))
local answers = {}
for i = 1, #KEYS, 2 do
  local h, t = found[i], found[i + 1]
  local h_value = ARGV[i]
  local answer
  if h_value ~= '' and h then
    answer = 'h' .. h
  elseif t then
    answer = 't' .. t
  elseif h_value ~= '' and redis.pcall('GET', KEYS[i]) then -- no string, or written by an earlier row
    answer = taken('h', KEYS[i])
  elseif not redis.call('SET', KEYS[i + 1], ARGV[i + 1], 'NX') then -- the same
    answer = taken('t', KEYS[i + 1])
  else
    if h_value ~= '' then
      redis.call('SET', KEYS[i], h_value)
    end
    answer = ''
  end
  answers[#answers + 1] = answer
end
return answers
