#!lua flags=allow-oom
-- Makes our group where it is missing: after what is known to be acknowledged, if the stream has come that far; else at 0.
--
-- KEYS[1]  request stream; made, if there is none
-- KEYS[2]  its low-water mark; left out where the caller may not know it
-- KEYS[3]  when its entries arrived, see trim.lua; left out as well
-- ARGV[1]  the group
-- Returns 1 made, 0 it was there
--
-- A mark that the stream has not come to is of a stream that was deleted: it is forgotten, since this one might reach it.
-- So are the arrivals, always. All of it is one step: a flush in between would hide what comes next.
--
-- Where the stream ends is told by a group at its end: XINFO STREAM would bring the first and the last entry, however large.
-- The flag lets the script write at the memory limit of the server: without its group nothing is answered or trimmed.
local stream, mark, arrivals = KEYS[1], KEYS[2], KEYS[3]

local function find(groups)
  for _, raw in ipairs(groups) do
    local group = map(raw)
    if group.name == ARGV[1] then
      return group
    end
  end
end

local groups = redis.pcall('XINFO', 'GROUPS', stream)
if find(groups) then
  return 0
end

-- Scripts do not roll back: every right is asked for before the group is at the end.
local may = mark
  and redis.acl_check_cmd('XINFO', 'GROUPS', stream)
  and redis.acl_check_cmd('XGROUP', 'SETID', stream, ARGV[1], '0')
  and redis.acl_check_cmd('SET', mark, '0-0')
local done = may and redis.pcall('GET', mark)
if type(done) ~= 'string' or not done:match('^%d+%-%d+$') then
  redis.call('XGROUP', 'CREATE', stream, ARGV[1], '0', 'MKSTREAM')
else
  redis.call('XGROUP', 'CREATE', stream, ARGV[1], '$', 'MKSTREAM')
  local last = find(redis.call('XINFO', 'GROUPS', stream))['last-delivered-id']
  if last == '0-0' or less(last, done) then
    redis.call('SET', mark, '0-0')
    done = '0'
  end
  redis.call('XGROUP', 'SETID', stream, ARGV[1], done)
end
if arrivals then
  redis.call('SET', arrivals, '')
end
return 1
