#!lua flags=allow-oom
-- Writes the note of a worker beside the request streams of several routes, or removes it.
--
-- KEYS     the hashes of notes, see own_keys
-- ARGV[1]  consumer
-- ARGV[2]  note; '' to remove it
-- ARGV[3]  seconds after which a hash expires to which no worker writes
-- Returns for each key the code of the error, '' if there was none
--
-- The flag lets the script write at the memory limit of the server: there readers of the notes need them most.
local codes = {}
for at, key in ipairs(KEYS) do
  local done
  if ARGV[2] == '' then
    done = redis.pcall('HDEL', key, ARGV[1])
  else
    done = redis.pcall('HSET', key, ARGV[1], ARGV[2])
  end
  codes[at] = ''
  if type(done) == 'table' then
    codes[at] = done.err:match('^%-?(%u+)') or 'ERR'
  elseif ARGV[2] ~= '' then
    redis.pcall('EXPIRE', key, ARGV[3])
  end
end
return codes
