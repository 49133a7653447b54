-- Tells the first id of a stream, the last one given, and the positions of its groups. Entries can be large, and stay here.
--
-- KEYS[1]  the stream
-- KEYS[2]  the notes of arrivals, see trim.lua
-- Returns  {number of entries, first id or nil, the largest id ever given, KEYS[2], groups, entries ever added}.
--          Each group is a list: what XINFO GROUPS says, and the first id after the last delivered one, or nil.
--          nil if the stream does not exist
-- Errors   those of XINFO STREAM, if the key is not a stream
local function id(entry)
  return entry and entry[1]
end

-- Nothing comes after the last id of all: servers refuse "(" before that.
local function following(delivered)
  if delivered == '18446744073709551615-18446744073709551615' then
    return false
  end
  return id(redis.call('XRANGE', KEYS[1], '(' .. delivered, '+', 'COUNT', 1)[1]) or false
end

local stream = redis.pcall('XINFO', 'STREAM', KEYS[1])
if stream.err then
  return not string.find(stream.err, 'no such key', 1, true) and stream
end
local info = map(stream)
local groups = {}
for i, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  groups[i] = { group, following(map(group)['last-delivered-id']) }
end
local notes = redis.call('GET', KEYS[2])
return { info.length, id(info['first-entry']) or false, info['last-generated-id'], notes, groups, info['entries-added'] }
