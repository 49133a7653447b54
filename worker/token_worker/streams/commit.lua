-- Acknowledges entries and writes their replies: a reply for each entry that this very call acknowledged, none for others.
--
-- KEYS[1]   request stream
-- KEYS[2]   the route's response stream
-- KEYS[3..] streams that requests named for their replies
-- ARGV[1]   consumer group
-- ARGV[2]   time to live, in seconds, of a stream that a reply makes at KEYS[3..]
-- ARGV      then six for each entry: its id, number of the target in KEYS, payload, traceparent, tracestate ('' for none),
--           and the payload for KEYS[2] where the target cannot take the reply ('' where the target is KEYS[2])
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

local statuses = {}
for i = 3, #ARGV, 6 do
  local status = redis.call('XACK', KEYS[1], group, ARGV[i])
  if status == 1 then
    local number = tonumber(ARGV[i + 1])
    local key = KEYS[number]
    local is_new = number > 2 and redis.pcall('EXISTS', key) == 0
    local added = add(key, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
    if number > 2 then
      if type(added) == 'table' then
        status = 2
        add(KEYS[2], ARGV[i + 5], ARGV[i + 3], ARGV[i + 4])
      elseif is_new then
        redis.pcall('EXPIRE', key, ttl)
      else
        redis.pcall('EXPIRE', key, ttl, 'GT') -- a time to live is prolonged, never given to a stream that has none
      end
    end
  end
  statuses[#statuses + 1] = status
end
return statuses
