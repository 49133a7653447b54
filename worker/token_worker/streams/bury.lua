-- Moves an entry to the dead-letter stream: acknowledges it, copies it there with the reason, and may answer its producer.
--
-- KEYS[1]  request stream
-- KEYS[2]  dead-letter stream
-- KEYS[3]  response stream
-- ARGV     group, entry id, reason, deliveries, reply payload ('' for none), traceparent, tracestate ('' for none)
-- Returns 1 moved, 0 not ours to move (acknowledged before, or by another), 2 acknowledged only: the entry has been deleted
-- Errors before anything is done: UNFIT, one of the streams cannot take it
--
-- The copy holds the fields dead_reason, dead_stream, dead_entry, dead_deliveries, then the entry's own fields; of one with
-- more than 3,000 fields, which Lua cannot pass on, only those of the contract, and dead_fields tells their number.
-- The worker never sees the entry here: it may be the one that kills its reader.
local group, id, reason, deliveries, reply = unpack(ARGV, 1, 5)

local function is_fit(key)
  local kind = redis.call('TYPE', key).ok
  return (kind == 'stream' or kind == 'none') and redis.acl_check_cmd('XADD', key, '*', 'payload', '')
end

if not is_fit(KEYS[2]) or (reply ~= '' and not is_fit(KEYS[3])) then
  return redis.error_reply('UNFIT the dead-letter or the response stream cannot take entries')
end

local found = redis.call('XRANGE', KEYS[1], id, id)[1]
if redis.call('XACK', KEYS[1], group, id) == 0 then
  return 0
end
if found then
  local fields = found[2]
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
  if #copy > 7000 then
    copy = { unpack(copy, 1, 10) }
  end
  redis.call('XADD', KEYS[2], '*', unpack(copy))
end
if reply ~= '' then
  local answer = { 'payload', reply }
  for i, name in ipairs({ 'traceparent', 'tracestate' }) do
    if ARGV[5 + i] ~= '' then
      answer[#answer + 1] = name
      answer[#answer + 1] = ARGV[5 + i]
    end
  end
  redis.call('XADD', KEYS[3], '*', unpack(answer))
end
return found and 1 or 2
