-- Deletes what is past its retention from a stream, never anything that a group still needs, and keeps the low-water mark.
--
-- KEYS[1]  the stream
-- KEYS[2]  on a request stream: its low-water mark, the id up to which our group has acknowledged everything
-- ARGV[1]  our group on a request stream, '' on others
-- ARGV[2]  oldest id to keep
-- ARGV[3]  most bytes to keep, '' for any number
-- ARGV[4]  oldest id to keep for a group that nobody reads any more; '' where every group is waited for
-- ARGV[5]  idle milliseconds after which a consumer does not read any more
-- ARGV[6]  most entries to delete in this call, about
-- Returns  {deleted, groups that nobody reads any more and that did not hold the stream}; {-1, 0} where there is no stream
--
-- A group needs its oldest pending entry and all after it, or what comes after the last delivered. While our group is gone
-- nothing is deleted: it is made again, and is then given what it had not acknowledged. Whole nodes of the stream go
-- first, in a bounded number; when none is left, the part of the last node, exactly: about a millisecond.
local stream, mark = KEYS[1], KEYS[2]

-- Ids are two numbers of up to 64 bits, which Lua's doubles cannot hold: compared as text, by length first.
local function less(a, b)
  local a1, a2 = a:match('^(%d+)%-(%d+)$')
  local b1, b2 = b:match('^(%d+)%-(%d+)$')
  if a1 ~= b1 then
    return #a1 < #b1 or (#a1 == #b1 and a1 < b1)
  end
  return #a2 < #b2 or (#a2 == #b2 and a2 < b2)
end

local function after(id)
  local ms, seq = id:match('^(%d+)%-(%d+)$')
  if #seq > 15 then
    return id
  end
  return string.format('%s-%.0f', ms, tonumber(seq) + 1)
end

local function map(list)
  local found = {}
  for i = 1, #list, 2 do
    found[list[i]] = list[i + 1]
  end
  return found
end

local kind = redis.call('TYPE', stream).ok
if kind ~= 'stream' then
  return { -1, 0 }
end

local bound = ARGV[2]
if ARGV[3] ~= '' then
  local excess = 1 - tonumber(ARGV[3]) / redis.call('MEMORY', 'USAGE', stream)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if excess > 0 and first then
    -- Entries are taken to be spread evenly over time; the next calls make up for the error.
    local last = map(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
    local from, to = tonumber(first[1]:match('^%d+')), tonumber(last:match('^%d+'))
    local by_bytes = string.format('%.0f-0', from + math.ceil((to - from + 1) * excess))
    if less(bound, by_bytes) then
      bound = by_bytes
    end
  end
end

local given_up = 0
local is_served = ARGV[1] == ''
for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = map(raw)
  local needed = after(group['last-delivered-id'])
  local is_ours = group.name == ARGV[1]
  if group.pending > 0 then
    needed = redis.call('XPENDING', stream, group.name)[2]
  end
  if is_ours then
    is_served = true
    -- What comes after the mark is what the group would have to be given again, were it lost now.
    local ms, seq = needed:match('^(%d+)%-(%d+)$')
    local done = group.pending == 0 and group['last-delivered-id'] or nil
    if not done and seq ~= '0' and #seq <= 15 then
      done = string.format('%s-%.0f', ms, tonumber(seq) - 1)
    elseif not done and #ms <= 15 and tonumber(ms) > 0 then
      done = string.format('%.0f-18446744073709551615', tonumber(ms) - 1)
    end
    if done then
      redis.call('SET', mark, done)
    end
  end
  if less(needed, bound) then
    local is_read = true
    if ARGV[4] ~= '' and not is_ours then
      is_read = false
      for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group.name)) do
        is_read = is_read or map(consumer).idle < tonumber(ARGV[5])
      end
    end
    if is_read then
      bound = needed
    elseif less(needed, ARGV[4]) then
      given_up = given_up + 1
      if less(ARGV[4], bound) then
        bound = ARGV[4]
      end
    else
      bound = needed
    end
  end
end

if not is_served then
  return { 0, 0 }
end

local limit = tonumber(ARGV[6])
local deleted = redis.call('XTRIM', stream, 'MINID', '~', bound, 'LIMIT', limit)
if deleted < limit then
  deleted = deleted + redis.call('XTRIM', stream, 'MINID', bound)
end
return { deleted, given_up }
