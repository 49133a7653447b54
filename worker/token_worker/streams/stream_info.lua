-- What XINFO tells, and ids, for scripts: each that uses them has this text before its own. Touches nothing.

-- A list of names and values as a table.
local function map(list)
  local found = {}
  for i = 1, #list, 2 do
    found[list[i]] = list[i + 1]
  end
  return found
end

-- Whether an id comes before another one. Ids are two numbers of up to 64 bits, which Lua's doubles cannot hold: compared as
-- text, by length first.
local function less(a, b)
  local a1, a2 = a:match('^(%d+)%-(%d+)$')
  local b1, b2 = b:match('^(%d+)%-(%d+)$')
  if a1 ~= b1 then
    return #a1 < #b1 or (#a1 == #b1 and a1 < b1)
  end
  return #a2 < #b2 or (#a2 == #b2 and a2 < b2)
end

