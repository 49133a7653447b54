-- Writes new token entries: of each row both or neither, and only where there is nothing yet.
--
-- KEYS  for each row: its value entry, its token entry (an inconsistent token has no value entry: the other stands
--       twice)
-- ARGV  for each row: the new value entry ('' for none), the new token entry, the tombstone that the value entry may
--       replace ('' for none)
-- Returns for each row: '' written; 'h' .. value: the value entry exists, holding that; 't' .. value: the token entry
--       exists, holding that; 'x': a key of the row is not a string.
--
-- One script at most touches about 1,000 keys (500 rows): about 3 ms of the server.
local function taken(kind, key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and kind .. value or 'x'
end

local found = redis.call('MGET', unpack(KEYS))
local answers = {}
for i = 1, #KEYS, 2 do
  local row = (i - 1) / 2 * 3
  local h_value, t_value, h_old = ARGV[row + 1], ARGV[row + 2], ARGV[row + 3]
  local function holds_back(value) -- what stands in the way of the value entry: all but the tombstone
    return h_value ~= '' and value and (h_old == '' or value ~= h_old)
  end
  local answer
  if holds_back(found[i]) then
    answer = 'h' .. found[i]
  elseif found[i + 1] then
    answer = 't' .. found[i + 1]
  elseif holds_back(redis.pcall('GET', KEYS[i])) then -- no string, or written by an earlier row
    answer = taken('h', KEYS[i])
  elseif not redis.call('SET', KEYS[i + 1], t_value, 'NX') then -- the same
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
