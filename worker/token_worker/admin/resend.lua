-- Sends requests again, and stores how far the replay has come. Both happen in one step, so that an interrupted replay
-- continues exactly where it stopped.
--
-- KEYS[1]  request stream
-- KEYS[2]  the record of the replay
-- KEYS[3]  stream that the requests were read from: KEYS[1], or a dead-letter stream
-- ARGV[1]  the record as the caller knows it
-- ARGV[2]  the new record
-- ARGV[3]  seconds for which the record is kept
-- ARGV[4]  '1': delete the entries from KEYS[3]
-- ARGV     then four for each request: id of its entry in KEYS[3], payload, traceparent, tracestate ('' for none)
-- Returns the ids of the new entries, '' if the entry in KEYS[3] was deleted meanwhile; nil if the record has changed:
-- another command continues the replay
-- Errors before anything is done: UNFIT, the request stream cannot take entries, or a right is missing
--
-- Scripts do not roll back. So everything that could fail is checked first, and an entry is deleted only after it was
-- sent. Only the first XADD finds out that the ids of the request stream are used up. So the caller first sends one
-- request, and more only if its id is not among the last ones.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return false
end

local kind = redis.call('TYPE', KEYS[1]).ok
local may = redis.acl_check_cmd('XADD', KEYS[1], '*', 'payload', '')
  and redis.acl_check_cmd('SET', KEYS[2], '', 'EX', '1')
  and (ARGV[4] ~= '1' or redis.acl_check_cmd('XDEL', KEYS[3], '0-1'))
if (kind ~= 'stream' and kind ~= 'none') or not may then
  return redis.error_reply('UNFIT the request stream cannot take entries, or a right is missing')
end

local sent = {}
for i = 5, #ARGV, 4 do
  local id, payload, traceparent, tracestate = unpack(ARGV, i, i + 3)
  if ARGV[4] == '1' and #redis.call('XRANGE', KEYS[3], id, id) == 0 then
    sent[#sent + 1] = ''
  else
    local fields = { 'payload', payload }
    if traceparent ~= '' then
      fields[3], fields[4] = 'traceparent', traceparent
      if tracestate ~= '' then
        fields[5], fields[6] = 'tracestate', tracestate
      end
    end
    local added = redis.pcall('XADD', KEYS[1], '*', unpack(fields))
    if type(added) == 'table' and string.find(added.err, 'exhausted', 1, true) then
      return redis.error_reply('UNFIT the ids of the request stream are used up')
    elseif type(added) == 'table' then
      return added
    end
    sent[#sent + 1] = added
    if ARGV[4] == '1' then
      redis.call('XDEL', KEYS[3], id)
    end
  end
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return sent
