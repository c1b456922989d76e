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

local ids = {unpack(ARGV, 5, 4 + count)}
local pending = pending_rows(lbs, group, ids, ARGV[3], ARGV[4])

local command = {'XCLAIM', lbs, group, consumer, '0'}
local replies, records = {}, {}
for i = 1, count do
  local id, token = ids[i], ARGV[4 + count + i]
  local seen, handed, failures = NO_TOKEN, false, 0
  if stored[i] then
    seen, handed, failures = parse_record(stored[i])
  end
  if token < seen or (token == seen and handed) then
    replies[i] = {'stale', seen}
  else
    -- A lower token that was never handed back: its owner crashed on it.
    if token > seen and seen ~= NO_TOKEN and not handed then
      failures = failures + 1
    end
    local from = pending[id] and pending[id][2]
    replies[i] = from == consumer and failures or {'claimed', failures, from or false}
    command[#command + 1] = id
    records[#records + 1] = id
    records[#records + 1] = format_record(token, false, failures)
  end
end

-- Only what is on the LBS comes back from it. FORCE: the group may have been made
-- anew, then nobody has the entry pending. JUSTID: with the fields it costs twice
-- as much, and Redis' count of deliveries means nothing here.
local there, found = {}, 0
if #records > 0 then
  command[#command + 1] = 'FORCE'
  command[#command + 1] = 'JUSTID'
  for _, id in ipairs(redis.call(unpack(command))) do
    there[id] = true
    found = found + 1
  end
  redis.call('HSET', tokens, unpack(records))
end
for i = 1, found < count and count or 0 do
  if not there[ids[i]] and not fields_of(lbs, ids[i]) then
    replies[i] = {'gone'}
    clear(lbs, group, tokens, ids[i])
  end
end
return replies
