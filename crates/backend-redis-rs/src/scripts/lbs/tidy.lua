-- Removes, a page at a time, fencing records whose entry is off the LBS: what is
-- left when a consumer that knows no records removed the entry.
-- KEYS: LBS, fencing records.  ARGV: group, cursor, about how many to look at.
-- Returns where to go on.
local lbs, tokens = KEYS[1], KEYS[2]
local group, cursor, count = ARGV[1], ARGV[2], ARGV[3]
local page = redis.call('HSCAN', tokens, cursor, 'COUNT', count)
for i = 1, #page[2], 2 do
  local id = page[2][i]
  -- Mostly it is pending, and whether it is there can be asked only with its payload,
  -- which may be long. What is pending and gone is cleared away by who lists it.
  -- pcall: a field that is no entry id is not ours, and is left alone.
  local pending = redis.pcall('XPENDING', lbs, group, id, id, 1)
  local found = (pending.err or #pending == 0) and redis.pcall('XRANGE', lbs, id, id)
  if found and not found.err and #found == 0 then
    redis.call('HDEL', tokens, id)
  end
end
return page[1]
