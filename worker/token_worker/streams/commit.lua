-- Acknowledges entries and writes their replies: a reply for each entry that this very call acknowledged, none for others.
--
-- KEYS[1]   request stream
-- KEYS[2]   the route's response stream
-- KEYS[3..] streams that requests named for their replies
-- ARGV[1]   consumer group
-- ARGV[2]   time to live, in seconds, of a stream that a reply makes at KEYS[3..]
-- ARGV      then for each entry: its id and its payload for KEYS[2]; or '+' before the id, a payload, number of the target
--           in KEYS, traceparent, tracestate ('' for none), and the payload for KEYS[2] where the target cannot take the reply
--           ('' where the target is KEYS[2])
-- Returns for each entry: 1 answered, 0 not ours to answer (acknowledged before, or by another), 2 answered at KEYS[2]
--           instead, 3 it stays pending, since KEYS[2] cannot take the reply; after a 3, at the end, the reason of the last
local group, ttl = ARGV[1], ARGV[2]
local LAST_MS = '18446744073709551615'

local is_open = {} -- by number of the key: XADD to it cannot be refused any more in this call
local refused

-- Answers an entry at KEYS[number]. Returns 1, or 0 not ours; or nil, and why the stream cannot take the reply.
local function answer(number, id, fields)
  local key = KEYS[number]
  if is_open[number] then
    local status = redis.call('XACK', KEYS[1], group, id)
    if status == 1 then
      redis.call('XADD', key, '*', unpack(fields))
    end
    return status
  elseif not is_pending(KEYS[1], group, id) then
    return 0
  end
  local added, why = add(key, fields)
  if not added then
    return nil, why
  end
  redis.call('XACK', KEYS[1], group, id)
  is_open[number] = string.sub(added, 1, #LAST_MS) ~= LAST_MS -- else ids may be used up by the next
  return 1
end

local function answer_here(id, fields)
  local status, why = answer(2, id, fields)
  refused = why or refused
  return status or 3
end

local function answer_elsewhere(number, id, fields, instead)
  local is_new = redis.pcall('EXISTS', KEYS[number]) == 0
  local status = answer(number, id, fields)
  if status == 1 then
    keep(KEYS[number], is_new, ttl)
  elseif not status then
    fields[2] = instead
    status = answer_here(id, fields)
    return status == 1 and 2 or status
  end
  return status
end

begin(KEYS[1], group)
local PLUS = string.byte('+')
local call, requests, responses = redis.call, KEYS[1], KEYS[2]
local statuses = {}
local i, n = 3, #ARGV
while i < n do
  local id, payload = ARGV[i], ARGV[i + 1]
  local status
  if string.byte(id) ~= PLUS then
    if not is_open[2] then
      status = answer_here(id, { 'payload', payload })
    else -- as ``answer`` does: nearly all entries, in short
      status = call('XACK', requests, group, id)
      if status == 1 then
        call('XADD', responses, '*', 'payload', payload)
      end
    end
    i = i + 2
  else
    id = string.sub(id, 2)
    local number, fields = tonumber(ARGV[i + 2]), fields_of(payload, ARGV[i + 3], ARGV[i + 4])
    if number == 2 then
      status = answer_here(id, fields)
    else
      status = answer_elsewhere(number, id, fields, ARGV[i + 5])
    end
    i = i + 6
  end
  statuses[#statuses + 1] = status
end
statuses[#statuses + 1] = refused
return statuses
