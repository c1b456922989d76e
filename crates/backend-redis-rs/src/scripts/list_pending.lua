-- A page of what is pending, each with its fencing record and its fields.
-- Drops what is pending but deleted from the stream.
-- KEYS: LBS, fencing records.
-- ARGV: group, most bytes, then either 'page', after, limit [, consumer], or 'ids',
-- the least and the greatest id, the ids.
-- Returns the rows, and the last id looked at if there are more.
local lbs, tokens = KEYS[1], KEYS[2]
local group, budget = ARGV[1], tonumber(ARGV[2])

local found, more = {}, false
if ARGV[3] == 'ids' then
  local wanted = {unpack(ARGV, 6)}
  local rows = pending_rows(lbs, group, wanted, ARGV[4], ARGV[5])
  for i = 1, #wanted do
    found[#found + 1] = rows[wanted[i]]
  end
else
  local limit = tonumber(ARGV[5])
  found = redis.call('XPENDING', lbs, group, '(' .. ARGV[4], '+', limit, unpack(ARGV, 6))
  more = #found == limit and found[#found][1]
end
if #found == 0 then
  return {{}, false}
end

local ids = {}
for i = 1, #found do
  ids[i] = found[i][1]
end
local stored = redis.call('HMGET', tokens, unpack(ids))
local rows = {}
for i = 1, #found do
  local id, row = ids[i], found[i]
  local fields = fields_of(lbs, id)
  if fields then
    local token, handed, failures = parse_record(stored[i], id)
    local state = unreadable[id] and 2 or handed and 1 or 0
    rows[#rows + 1] = {id, row[2], row[3], row[4], token, state, failures, fields}
    for f = 1, #fields do
      budget = budget - #fields[f]
    end
    -- Huge payloads: a shorter page, so that neither server nor caller chokes.
    if budget <= 0 and i < #found and ARGV[3] == 'page' then
      return {rows, id}
    end
  else
    clear(lbs, group, tokens, id)
  end
end
return {rows, more}
