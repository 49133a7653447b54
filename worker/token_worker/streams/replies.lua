-- Replies, for scripts that acknowledge requests: each of these has this text before its own. Touches what it is given.
--
-- A request is acknowledged only after its reply was written: scripts do not roll back, and XADD can be refused by what
-- is found out by nothing but XADD (the ids of the stream are used up).

-- Adds an entry. Returns its id; or nil, and why the stream cannot take it.
local function add(key, fields)
  local added = redis.pcall('XADD', key, '*', unpack(fields))
  if type(added) == 'string' then
    return added
  elseif string.find(added.err, 'exhausted', 1, true) then
    return nil, 'ids used up'
  elseif string.find(added.err, 'too large', 1, true) then
    return nil, 'too large'
  elseif string.find(added.err, 'ACL', 1, true) then
    return nil, 'NOPERM'
  end
  return nil, string.match(added.err, '^%u+') or 'ERR'
end

local function fields_of(payload, traceparent, tracestate)
  local fields = { 'payload', payload }
  if traceparent ~= '' then
    fields[3], fields[4] = 'traceparent', traceparent
    if tracestate ~= '' then
      fields[5], fields[6] = 'tracestate', tracestate
    end
  end
  return fields
end

-- Whether an entry is pending: then the very next XACK of it counts. A group that is gone has none.
local function is_pending(stream, group, id)
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if found.err and string.sub(found.err, 1, 7) ~= 'NOGROUP' then
    error(found)
  end
  return found[1] ~= nil
end

-- Gives a stream that a request named a time to live, if the reply has made it; else prolongs what it has, if any.
local function keep(key, is_new, ttl)
  if is_new then
    redis.pcall('EXPIRE', key, ttl)
  else
    redis.pcall('EXPIRE', key, ttl, 'GT')
  end
end

-- Lets the script go on at the server's memory limit: it has begun with a write that needs no memory. And what keeps
-- from writing at all, or from acknowledging (a replica, a disk that fails, an ACL), is raised here, before anything is
-- done. There is no entry of this id.
local function begin(stream, group)
  redis.call('XACK', stream, group, '0-0')
end
