-- A page of what is pending, each with its fencing record and its fields.
-- Drops what is pending but deleted from the stream.
-- KEYS: LBS, fencing records.
-- ARGV: group, most bytes, then either 'page', after, limit [, consumer] or 'ids', id…
local lbs, tokens = KEYS[1], KEYS[2]
local group, budget = ARGV[1], tonumber(ARGV[2])
local rows = {}

local function add(row)
  local id = row[1]
  local fields = fields_of(lbs, id)
  if not fields then
    clear(lbs, group, tokens, id)
    return
  end
  local token, handed, failures = record(tokens, id)
  rows[#rows + 1] = {id, row[2], row[3], row[4], token, handed and 1 or 0, failures, fields}
  for f = 1, #fields do
    budget = budget - #fields[f]
  end
end

if ARGV[3] == 'ids' then
  for i = 4, #ARGV do
    local found = redis.call('XPENDING', lbs, group, ARGV[i], ARGV[i], 1)
    if found[1] then
      add(found[1])
    end
  end
  return {rows, false}
end

local after, limit = '(' .. ARGV[4], tonumber(ARGV[5])
local found
if ARGV[6] then
  found = redis.call('XPENDING', lbs, group, after, '+', limit, ARGV[6])
else
  found = redis.call('XPENDING', lbs, group, after, '+', limit)
end
for i = 1, #found do
  add(found[i])
  -- Huge payloads: a shorter page, so that neither server nor caller chokes.
  if budget <= 0 and i < #found then
    return {rows, found[i][1]}
  end
end
return {rows, #found == limit and found[#found][1] or false}
