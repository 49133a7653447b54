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
-- Returns for each entry: 1 answered, 0 not ours to answer (acknowledged before, or by another), 2 answered at KEYS[2] instead
-- Errors before anything is done: UNFIT, KEYS[2] cannot take replies (no stream, or refused by ACL)
--
-- Scripts do not roll back, so what could fail is asked first or tried with pcall. The acknowledgement comes before the
-- reply: a server at its memory limit lets a script go on that began with a command that needs no memory.
local group, ttl = ARGV[1], ARGV[2]

local kind = redis.call('TYPE', KEYS[2]).ok
if (kind ~= 'stream' and kind ~= 'none') or not redis.acl_check_cmd('XADD', KEYS[2], '*', 'payload', '') then
  return redis.error_reply('UNFIT the response stream cannot take replies')
end

local function add(key, payload, traceparent, tracestate)
  local fields = { 'payload', payload }
  if traceparent ~= '' then
    fields[3], fields[4] = 'traceparent', traceparent
    if tracestate ~= '' then
      fields[5], fields[6] = 'tracestate', tracestate
    end
  end
  return redis.pcall('XADD', key, '*', unpack(fields))
end

-- Writes a reply that is not just a payload for KEYS[2]. Returns 1, or 2 where the target could not take it.
local function answer(payload, number, traceparent, tracestate, instead)
  local key = KEYS[number]
  local is_new = number > 2 and redis.pcall('EXISTS', key) == 0
  local added = add(key, payload, traceparent, tracestate)
  if number == 2 then
    return 1
  elseif type(added) == 'table' then
    add(KEYS[2], instead, traceparent, tracestate)
    return 2
  elseif is_new then
    redis.pcall('EXPIRE', key, ttl)
  else
    redis.pcall('EXPIRE', key, ttl, 'GT') -- a time to live is prolonged, never given to a stream that has none
  end
  return 1
end

local PLUS = string.byte('+')
local statuses = {}
local i, n = 3, #ARGV
while i < n do
  local id, payload = ARGV[i], ARGV[i + 1]
  local status
  if string.byte(id) ~= PLUS then
    status = redis.call('XACK', KEYS[1], group, id)
    if status == 1 then
      redis.pcall('XADD', KEYS[2], '*', 'payload', payload)
    end
    i = i + 2
  else
    status = redis.call('XACK', KEYS[1], group, string.sub(id, 2))
    if status == 1 then
      status = answer(payload, tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
    end
    i = i + 6
  end
  statuses[#statuses + 1] = status
end
return statuses
