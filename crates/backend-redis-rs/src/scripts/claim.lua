-- Fenced claim of a page of entries, none of them twice.
-- KEYS: LBS, fencing records.
-- ARGV: group, claimer, lowest and highest id of the page, then the ids, then a
-- token for each.
-- Returns for each: how often its owners failed, if it was pending at the claimer
-- already; {'claimed', failures, where it was pending}; {'stale', token} or {'gone'}.
--
-- Every command costs more than the work it does, so the page is looked up and
-- claimed as a whole; what is decided about each entry is decided in between.
local lbs, tokens = KEYS[1], KEYS[2]
local group, consumer = ARGV[1], ARGV[2]
local count = (#ARGV - 4) / 2
local stored = redis.call('HMGET', tokens, unpack(ARGV, 5, 4 + count))

-- A page is mostly a run of the pending list; what lies beyond the limit is looked up singly.
local limit = 2 * count
local rows = redis.call('XPENDING', lbs, group, ARGV[3], ARGV[4], limit)
local at = {}
for i = 1, #rows do
  at[rows[i][1]] = rows[i][2]
end

-- FORCE: the group may have been made anew, then nobody has the entry pending.
-- Keeping is no delivery; JUSTID leaves the count as it is.
local keep = {'XCLAIM', lbs, group, consumer, 0}
local take = {'XCLAIM', lbs, group, consumer, 0}
local replies, records, refused = {}, {}, {}
for i = 1, count do
  local id, token = ARGV[4 + i], ARGV[4 + count + i]
  local seen, handed, failures = NO_TOKEN, false, 0
  if stored[i] then
    seen, handed, failures = parse_record(stored[i])
  end
  if token < seen or (token == seen and handed) then
    replies[i] = {'stale', seen}
    refused[#refused + 1] = i
  else
    -- A lower token that was never handed back: its owner crashed on it.
    if token > seen and seen ~= NO_TOKEN and not handed then
      failures = failures + 1
    end
    local from = at[id]
    if not from and #rows == limit then
      from = pending_at(lbs, group, id)
    end
    if from == consumer then
      keep[#keep + 1] = id
      replies[i] = failures
    else
      take[#take + 1] = id
      replies[i] = {'claimed', failures, from or false}
    end
    records[#records + 1] = id
    records[#records + 1] = failures == 0 and token .. ':0:0' or format_record(token, false, failures)
  end
end
if #records > 0 then
  redis.call('HSET', tokens, unpack(records))
end

-- Only what is on the LBS comes back from it.
local there, missing = {}, #refused > 0
local function xclaim(command, justid)
  local asked = #command - 5
  if asked > 0 then
    command[#command + 1] = 'FORCE'
    command[#command + 1] = justid
    local found = redis.call(unpack(command))
    for i = 1, #found do
      there[justid and found[i] or found[i][1]] = true
    end
    missing = missing or #found < asked
  end
end
xclaim(keep, 'JUSTID')
xclaim(take)

for i = 1, missing and count or 0 do
  local id = ARGV[4 + i]
  if not there[id] and not fields_of(lbs, id) then
    replies[i] = {'gone'}
    clear(lbs, group, tokens, id)
  end
end
return replies
