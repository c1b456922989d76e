-- A page of what is pending, each with its fencing record and its payload.
-- Drops what is pending but deleted from the stream. Of those asked for by id, with
-- those that were delivered and are at nobody (nil, no idle time, no deliveries).
-- KEYS: ….
-- ARGV: …, most bytes, the payload's field name, most bytes of a payload, then either
-- 'page', after, limit [, consumer], or 'ids', the least and the greatest id, the ids.
-- Returns the rows, and the last id looked at if there are more. A payload that is too
-- long is not sent: its length is.
local budget, name, longest = tonumber(ARGV[A + 1]), ARGV[A + 2], tonumber(ARGV[A + 3])
local by = ARGV[A + 4]
-- What comes behind 'page' or 'ids'.
local B = A + 4

local found, more = {}, false
if by == 'ids' then
  local low, high, wanted = ARGV[B + 1], ARGV[B + 2], {unpack(ARGV, B + 3)}
  local rows = pending_rows(wanted, low, high)
  local last
  for i = 1, #wanted do
    local id, row = wanted[i], rows[wanted[i]]
    if not row then
      last = last or last_delivered(lbs, group) or '0-0'
      local entry = redis.call('XRANGE', lbs, id, last, 'COUNT', 1)[1]
      row = entry and entry[1] == id and {id, false, 0, 0}
    end
    found[#found + 1] = row or nil
  end
else
  local after, limit = ARGV[B + 1], tonumber(ARGV[B + 2])
  found = redis.call('XPENDING', lbs, group, '(' .. after, '+', limit, unpack(ARGV, B + 3))
  more = #found == limit and found[#found][1]
end
if #found == 0 then
  return {{}, false}
end

-- The payload field alone; whatever else stands there nobody reads.
local function payload_of(fields)
  for f = 1, #fields, 2 do
    if fields[f] == name then
      local length = #fields[f + 1]
      if length > longest then
        return length
      end
      budget = budget - length
      return {name, fields[f + 1]}
    end
  end
  return {}
end

local ids = {}
for i = 1, #found do
  ids[i] = found[i][1]
end
local stored = redis.call('HMGET', tokens, unpack(ids))
local rows = {}
for i = 1, #found do
  local id, row = ids[i], found[i]
  local fields = fields_of(id)
  if fields then
    local token, handed, failures, kept = parse_record(stored[i], id)
    local state = unreadable[id] and 2 or handed and 1 or 0
    local reasons = {}
    for k, failure in ipairs(failures > 0 and split_kept(kept) or {}) do
      reasons[k] = string.sub(failure, 42)
    end
    rows[#rows + 1] =
      {id, row[2], row[3], row[4], token, state, failures, reasons, payload_of(fields)}
    -- Long payloads: a shorter page, so that neither server, link nor caller chokes.
    if budget <= 0 and i < #found then
      return {rows, id}
    end
  else
    clear(id)
  end
end
return {rows, more}
