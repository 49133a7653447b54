-- Tells the reasons of dead letters, newest first. The entries, which hold payloads, stay here.
--
-- KEYS[1]  the dead-letter stream
-- ARGV     the end as for XREVRANGE, the most entries to look at, the most bytes of a reason
-- Returns  {bytes of the entries' fields, id, reason, id, reason, ...}; a reason is '' if the entry has none
local page = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2])
local found, bytes = { 0 }, 0
for _, entry in ipairs(page) do
  local fields = entry[2]
  for _, field in ipairs(fields) do
    bytes = bytes + #field
  end
  found[#found + 1] = entry[1]
  found[#found + 1] = fields[1] == 'dead_reason' and string.sub(fields[2], 1, ARGV[3]) or ''
end
found[1] = bytes
return found
