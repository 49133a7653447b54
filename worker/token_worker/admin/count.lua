-- Counts entries of a stream. The entries stay here.
--
-- KEYS[1]  the stream
-- ARGV     the start as for XRANGE, the most entries to count
-- Returns  {entries, id of the last one or nil, bytes of their fields}
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local bytes = 0
for _, entry in ipairs(page) do
  for _, field in ipairs(entry[2]) do
    bytes = bytes + #field
  end
end
return { #page, #page > 0 and page[#page][1] or false, bytes }
