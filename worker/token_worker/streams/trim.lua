#!lua flags=allow-oom
-- Deletes what is past its retention from a stream, never anything that a group still needs, and keeps the low-water mark.
--
-- KEYS[1]  the stream
-- KEYS[2]  beside it: when its entries arrived, as "time id time id …": what has this id, or a lower one, was there by then
-- KEYS[3]  on a request stream: its low-water mark, the id up to which our group has acknowledged everything
-- ARGV[1]  our group on a request stream, '' on others
-- ARGV[2]  milliseconds to keep an entry after it arrived; 0: no entry that is not needed
-- ARGV[3]  most bytes to keep, '' for any number
-- ARGV[4]  milliseconds to keep an entry for a group that nobody reads any more; '' where every group is waited for
-- ARGV[5]  idle milliseconds after which a consumer does not read any more
-- ARGV[6]  milliseconds between two notes of KEYS[2], at least; '' for none now
-- ARGV[7]  milliseconds of the server's CPU to spend, about
-- Returns  {deleted, groups that nobody reads any more and that did not hold the stream, 1 if more is to be deleted,
--          milliseconds that the last id lies ahead of the clock}; all 0 where there is no stream
--
-- A group needs its oldest pending entry and all after it, or what comes after the last delivered. While our group is gone
-- nothing is deleted: it is made again, and is then given what it had not acknowledged.
--
-- An id tells when its entry arrived only if nobody chose it, and the clock never ran ahead: later ids follow the largest.
-- So entries go by their ids, or by the notes, whichever says earlier that their time is over.
--
-- The flag lets the script write at the memory limit of the server: there it is needed most.
local stream, notes_key, mark = KEYS[1], KEYS[2], KEYS[3]
local MOST = '18446744073709551615'
local LAST = MOST .. '-' .. MOST
local NOTES_MS = 3600000 -- notes that are younger stay for those who ask how old an entry is

local function plus_one(number)
  local head, nines = number:match('^(.-)(9*)$')
  local zeros = string.rep('0', #nines)
  return head == '' and '1' .. zeros or head:sub(1, -2) .. string.format('%d', head:sub(-1) + 1) .. zeros
end

local function after(id)
  local ms, seq = id:match('^(%d+)%-(%d+)$')
  if seq ~= MOST then
    return ms .. '-' .. plus_one(seq)
  end
  return ms ~= MOST and plus_one(ms) .. '-0' or id
end

if redis.call('TYPE', stream).ok ~= 'stream' then
  return { 0, 0, 0, 0 }
end

-- Redis before 7.4 and Valkey before 8 have no os.clock, and their TIME may stand still in a script. There the entries are
-- counted.
local ENTRIES_A_MS = 500 -- of 8 KB each; small ones take less
local deleted = 0
local has_clock, clock = pcall(function()
  return os.clock
end)
has_clock = has_clock and clock ~= nil
local began = has_clock and clock()
local function is_over()
  if has_clock then
    return clock() - began >= tonumber(ARGV[7]) / 1000
  end
  return deleted >= ENTRIES_A_MS * tonumber(ARGV[7])
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local keep_ms, hold_ms = tonumber(ARGV[2]), tonumber(ARGV[4])
local groups = redis.call('XINFO', 'GROUPS', stream)

local is_served = ARGV[1] == ''
for _, raw in ipairs(groups) do
  is_served = is_served or map(raw).name == ARGV[1]
end

-- The last id that was ever given. XINFO STREAM brings the first and the last entry, however large; a group made at the end
-- brings nothing else, and is gone before anybody sees it.
local function last_id()
  local name = 'token-worker:last-id'
  if redis.acl_check_cmd('XGROUP', 'DESTROY', stream, name) then
    if not redis.pcall('XGROUP', 'CREATE', stream, name, '$').err then
      local found
      for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local group = map(raw)
        found = group.name == name and group['last-delivered-id'] or found
      end
      redis.call('XGROUP', 'DESTROY', stream, name)
      return found
    end
  end
  return map(redis.call('XINFO', 'STREAM', stream))['last-generated-id']
end

-- Those of another stream are dropped, which was deleted: their ids lie behind the last one. So are those of the future:
-- the clock was set back.
local notes, ahead = {}, 0
if is_served then
  for ms, id in (redis.call('GET', notes_key) or ''):gmatch('(%d+) (%d+%-%d+)') do
    notes[#notes + 1] = { ms = tonumber(ms), id = id }
  end
end

local function is_ahead(note)
  return tonumber(note.id:match('^%d+')) > note.ms
end

-- Of notes that say what the ids say one is enough. Others are close to each other while they are young, and further apart
-- as they grow old: a sixteenth of their age.
local function thinned(all, spacing)
  local kept, oldest_ms = {}, now - math.max(keep_ms, hold_ms or 0, NOTES_MS)
  for i, note in ipairs(all) do
    local before, next = kept[#kept], all[i + 1]
    local is_needed = not next
    if next and before then
      is_needed = next.ms - before.ms > math.max(spacing, (now - next.ms) / 16)
    elseif next then
      is_needed = next.ms > oldest_ms and (is_ahead(note) or is_ahead(next))
    end
    if is_needed then
      kept[#kept + 1] = note
    end
  end
  return kept
end

local function take_note(spacing)
  local last = last_id()
  ahead = math.max(0, math.min(tonumber(last:match('^%d+')) - now, 2 ^ 53))
  local valid = {}
  for _, note in ipairs(notes) do
    if note.ms <= now and not less(last, note.id) then
      valid[#valid + 1] = note
    end
  end
  notes = valid
  if #notes > 0 and now - notes[#notes].ms < spacing then
    return
  end
  notes[#notes + 1] = { ms = now, id = last }
  notes = thinned(notes, spacing)
  local text = {}
  for i, note in ipairs(notes) do
    text[i] = string.format('%.0f %s', note.ms, note.id)
  end
  redis.call('SET', notes_key, table.concat(text, ' '))
end

if ARGV[6] ~= '' then
  take_note(tonumber(ARGV[6]))
end
if not is_served then
  return { 0, 0, 0, ahead }
end

-- The oldest id to keep, of entries that may be so old.
local function oldest(ms)
  if ms == 0 then
    return LAST
  end
  local bound = string.format('%.0f-0', math.max(now - ms, 0))
  for _, note in ipairs(notes) do
    if note.ms <= now - ms and less(bound, after(note.id)) then
      bound = after(note.id)
    end
  end
  return bound
end

local bound = oldest(keep_ms)
local hold = hold_ms and oldest(hold_ms)
local cap, given_up = LAST, 0
for _, raw in ipairs(groups) do
  local group = map(raw)
  local needed = after(group['last-delivered-id'])
  local is_ours = group.name == ARGV[1]
  if group.pending > 0 then
    needed = redis.call('XPENDING', stream, group.name)[2]
  end
  if is_ours then
    -- What comes after the mark is what the group would have to be given again, were it lost now.
    local ms, seq = needed:match('^(%d+)%-(%d+)$')
    local done = group.pending == 0 and group['last-delivered-id'] or nil
    if not done and seq ~= '0' and #seq <= 15 then
      done = string.format('%s-%.0f', ms, tonumber(seq) - 1)
    elseif not done and #ms <= 15 and tonumber(ms) > 0 then
      done = string.format('%.0f-%s', tonumber(ms) - 1, MOST)
    end
    if done then
      redis.call('SET', mark, done)
    end
  end
  if less(needed, cap) and (ARGV[3] ~= '' or less(needed, bound)) then
    local is_read = true
    if hold and not is_ours then
      is_read = false
      for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group.name)) do
        is_read = is_read or map(consumer).idle < tonumber(ARGV[5])
      end
    end
    if not is_read and less(needed, hold) then
      given_up = given_up + 1
      needed = hold
    end
    if less(needed, cap) then
      cap = needed
    end
  end
end
if less(cap, bound) then
  bound = cap
end

-- Whole nodes, which costs little however many entries they have: first a few, then more as long as there is time. A node
-- that has more entries than LIMIT stays, so that grows until one goes. Returns whether there was time for all.
local function trim_nodes(to, excess)
  local length, limit = redis.call('XLEN', stream), 1
  while true do
    local most = excess()
    if most == 0 then
      return true
    end
    local gone = redis.call('XTRIM', stream, 'MINID', '~', to, 'LIMIT', string.format('%.0f', limit))
    deleted, length = deleted + gone, length - gone
    if gone == 0 and limit >= length then
      return true
    elseif gone > 0 and is_over() then
      return false
    elseif gone > 20000 then
      limit = 1
    elseif gone == 0 or limit < math.min(most, 4000) then
      limit = limit * 2
    end
  end
end

local is_done = trim_nodes(bound, function()
  return math.huge
end)
if is_done then -- then what is left of the first node, one by one: a millisecond for some 15,000 entries
  deleted = deleted + redis.call('XTRIM', stream, 'MINID', bound)
end

-- Bytes are freed by whole nodes alone.
if is_done and ARGV[3] ~= '' then
  is_done = trim_nodes(cap, function()
    local bytes = redis.call('MEMORY', 'USAGE', stream)
    local share = bytes and 1 - tonumber(ARGV[3]) / bytes or 0
    return share > 0 and math.ceil(share * redis.call('XLEN', stream)) or 0
  end)
end
return { deleted, given_up, is_done and 0 or 1, ahead }
