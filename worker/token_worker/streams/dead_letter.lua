-- Moves an entry to the dead-letter stream: copies it there with the reason, may answer its producer, and acknowledges it.
--
-- KEYS[1]  request stream
-- KEYS[2]  dead-letter stream
-- KEYS[3]  the route's response stream
-- KEYS[4]  stream that the request named for its reply, if any; KEYS[3] is the one to use where it cannot take the reply
-- ARGV     group, entry id, reason, deliveries, time to live, in seconds, of a stream that a reply makes at KEYS[4],
--          reply payload ('' for none), traceparent, tracestate ('' for none)
-- Returns  1 moved, 0 not ours to move (acknowledged before, or by another), 2 acknowledged only: the entry has been
--          deleted; or {number of a key, reason}: that stream cannot take its entry, and nothing is done
--
-- The copy holds the fields dead_reason, dead_stream, dead_entry, dead_deliveries, then the entry's own fields; of one with
-- more than 3,000 fields, which Lua cannot pass on, only those of the contract, and dead_fields tells their number; of
-- one that has no room for the reason, none.
-- The worker never sees the entry here: it may be the one that kills its reader.
local group, id, reason, deliveries, ttl, reply, traceparent, tracestate = unpack(ARGV)

local function why_unfit(key)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'stream' and kind ~= 'none' then
    return 'WRONGTYPE'
  elseif not redis.acl_check_cmd('XADD', key, '*', 'payload', '') then
    return 'NOPERM'
  end
end

local function copy_of(fields)
  local copy = { 'dead_reason', reason, 'dead_stream', KEYS[1], 'dead_entry', id, 'dead_deliveries', deliveries }
  if #fields > 6000 then
    copy[#copy + 1] = 'dead_fields'
    copy[#copy + 1] = tostring(#fields / 2)
  end
  for i = 1, #fields, 2 do
    local name = fields[i]
    if #fields <= 6000 or name == 'payload' or name == 'traceparent' or name == 'tracestate' then
      copy[#copy + 1] = name
      copy[#copy + 1] = fields[i + 1]
    end
  end
  return #copy > 7000 and { unpack(copy, 1, 10) } or copy
end

-- Writes the copy. Returns its id; or nil, and why the stream cannot take it.
local function copy_to_dead_letters(fields)
  local copy = copy_of(fields)
  local copied, why = add(KEYS[2], copy)
  if why == 'too large' then
    copied, why = add(KEYS[2], { unpack(copy, 1, 8) })
  end
  return copied, why
end

local function answer()
  local fields = fields_of(reply, traceparent, tracestate)
  if KEYS[4] then
    local is_new = redis.pcall('EXISTS', KEYS[4]) == 0
    if add(KEYS[4], fields) then
      keep(KEYS[4], is_new, ttl)
      return true
    end
  end
  return add(KEYS[3], fields)
end

begin(KEYS[1], group)
if not is_pending(KEYS[1], group, id) then
  return 0
end
for number = 2, reply == '' and 2 or 3 do -- found out first, so that nothing has to be taken back as a rule
  local why = why_unfit(KEYS[number])
  if why then
    return { number, why }
  end
end

local found = redis.call('XRANGE', KEYS[1], id, id)[1]
local copied, why
if found then
  copied, why = copy_to_dead_letters(found[2])
  if not copied then
    return { 2, why }
  end
end
if reply ~= '' then
  local is_answered
  is_answered, why = answer()
  if not is_answered then
    if copied then
      redis.pcall('XDEL', KEYS[2], copied)
    end
    return { 3, why }
  end
end
redis.call('XACK', KEYS[1], group, id)
return found and 1 or 2
