-- Fenced claim of a page of entries, none of them twice.
-- KEYS: LBS, fencing records.
-- ARGV: group, claimer, '1' if all owners leave a fencing record, lowest and highest
-- id of the page, then the ids, then a token for each.
-- Returns for each: how often its owners failed, if it was pending at the claimer
-- already; {'claimed', failures, where it was pending}; {'stale', token} or {'gone'}.
--
-- Every command costs more than the work it does, so the page is looked up and
-- claimed as a whole; what is decided about each entry is decided in between.
local lbs, tokens = KEYS[1], KEYS[2]
local group, consumer = ARGV[1], ARGV[2]
local count = (#ARGV - 5) / 2
local ids = {unpack(ARGV, 6, 5 + count)}
local stored = redis.call('HMGET', tokens, unpack(ids))

-- Whose it was is asked only where there may have been an owner: the rows of the
-- pending list are a tenth of what a page costs.
local look = ARGV[3] == '0'
for i = 1, look and 0 or count do
  look = look or stored[i]
end
local pending = look and pending_rows(lbs, group, ids, ARGV[4], ARGV[5])

local command, claims = {'XCLAIM', lbs, group, consumer, '0'}, 0
local replies, records = {}, {}
for i = 1, count do
  local id, token = ids[i], ARGV[5 + count + i]
  local seen, handed, failures = NO_TOKEN, false, 0
  if stored[i] then
    seen, handed, failures = parse_record(stored[i])
  end
  if stored[i] and (token < seen or (token == seen and handed)) then
    replies[i] = {'stale', seen}
  else
    -- A lower token that was never handed back: its owner crashed on it.
    if seen ~= NO_TOKEN and token > seen and not handed then
      failures = failures + 1
    end
    local row = pending and pending[id]
    if not pending or (row and row[2] == consumer) then
      replies[i] = failures
    else
      replies[i] = {'claimed', failures, row and row[2] or false}
    end
    claims = claims + 1
    command[5 + claims] = id
    records[2 * claims - 1] = id
    records[2 * claims] = format_record(token, false, failures)
  end
end

-- Only what is on the LBS comes back from it. FORCE: the group may have been made
-- anew, then nobody has the entry pending. JUSTID: with the fields it costs twice
-- as much, and Redis' count of deliveries means nothing here.
local claimed = {}
if claims > 0 then
  command[6 + claims] = 'FORCE'
  command[7 + claims] = 'JUSTID'
  claimed = redis.call(unpack(command))
  redis.call('HSET', tokens, unpack(records))
end
if #claimed == count then
  return replies
end
local there = {}
for i = 1, #claimed do
  there[claimed[i]] = true
end
for i = 1, count do
  if not there[ids[i]] and not fields_of(lbs, ids[i]) then
    replies[i] = {'gone'}
    clear(lbs, group, tokens, ids[i])
  end
end
return replies
