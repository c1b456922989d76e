-- Fenced claim of a page of entries.
-- KEYS: LBS, fencing records.
-- ARGV: group, claimer, lowest and highest id of the page, then (id, token) each.
--
-- Every command costs more than the work it does, so the page is looked up and
-- claimed as a whole; what is decided about each entry is decided in between.
local lbs, tokens = KEYS[1], KEYS[2]
local group, consumer = ARGV[1], ARGV[2]
local count = (#ARGV - 4) / 2
local ids = {}
for i = 1, count do
  ids[i] = ARGV[3 + 2 * i]
end
local stored = redis.call('HMGET', tokens, unpack(ids))

-- A page is mostly a run of the pending list; what lies beyond the limit is looked up singly.
local limit = 2 * count
local rows = redis.call('XPENDING', lbs, group, ARGV[3], ARGV[4], limit)
local at = {}
for _, row in ipairs(rows) do
  at[row[1]] = row[2]
end

local entries, keep, take, replies = {}, {}, {}, {}
for i = 1, count do
  local id, token = ids[i], ARGV[4 + 2 * i]
  local entry = entries[id]
  if not entry then
    local seen, handed, failures = parse_record(stored[i])
    local from = at[id]
    if not from and #rows == limit then
      from = pending_at(lbs, group, id)
    end
    entry = {seen = seen, handed = handed, failures = failures, from = from}
    entries[id] = entry
  end
  if token < entry.seen or (token == entry.seen and entry.handed) then
    replies[i] = {'stale', entry.seen}
  else
    -- A lower token that was never handed back: its owner crashed on it.
    if token > entry.seen and entry.seen ~= NO_TOKEN and not entry.handed then
      entry.failures = entry.failures + 1
    end
    replies[i] = {'claimed', entry.failures, entry.from or false}
    if not entry.claimed then
      local list = entry.from == consumer and keep or take
      list[#list + 1] = id
    end
    entry.seen, entry.handed, entry.from, entry.claimed = token, false, consumer, true
  end
end

-- Only what is on the LBS comes back from it. FORCE: the group may have been
-- made anew, then nobody has the entry pending.
local there = {}
local function xclaim(list, justid)
  if #list == 0 then
    return
  end
  local command = {'XCLAIM', lbs, group, consumer, 0}
  for _, id in ipairs(list) do
    command[#command + 1] = id
  end
  command[#command + 1] = 'FORCE'
  -- Keeping is no delivery; JUSTID leaves the count as it is.
  command[#command + 1] = justid
  for _, found in ipairs(redis.call(unpack(command))) do
    there[justid and found or found[1]] = true
  end
end
xclaim(keep, 'JUSTID')
xclaim(take)

local records = {}
for i = 1, count do
  local id = ids[i]
  local entry = entries[id]
  if not entry.claimed and not there[id] and fields_of(lbs, id) then
    there[id] = true
  end
  if not there[id] then
    replies[i] = {'gone'}
    clear(lbs, group, tokens, id)
  elseif entry.claimed then
    records[#records + 1] = id
    records[#records + 1] = format_record(entry.seen, false, entry.failures)
  end
end
if #records > 0 then
  redis.call('HSET', tokens, unpack(records))
end
return replies
