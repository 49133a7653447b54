-- Changes entries of tokens, row by row, while they are moved into another layout. A row is changed as a whole or not at
-- all: only if each of its keys is still what it was when read.
--
-- KEYS  entries: `tokens/...`, and names of the dense layout. The keys of a row stand together.
-- ARGV  for each row: the number of its keys; then for each key: the value as it was read ('' for none), and the new
--       value ('' to delete it, '=' to leave it)
-- Returns for each row: 1 changed, 0 another has changed one of its keys
local changed = {}
local key, arg = 1, 1
while key <= #KEYS do
  local count = tonumber(ARGV[arg])
  local same = 1
  for i = 0, count - 1 do
    if (redis.pcall('GET', KEYS[key + i]) or '') ~= ARGV[arg + 1 + 2 * i] then
      same = 0
      break
    end
  end
  if same == 1 then
    for i = 0, count - 1 do
      local new = ARGV[arg + 2 + 2 * i]
      if new == '' then
        redis.call('DEL', KEYS[key + i])
      elseif new ~= '=' then
        redis.call('SET', KEYS[key + i], new)
      end
    end
  end
  changed[#changed + 1] = same
  key = key + count
  arg = arg + 1 + 2 * count
end
return changed
