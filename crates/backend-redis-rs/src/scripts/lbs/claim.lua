-- Fenced claim of a page of entries, none of them twice.
-- KEYS: …, pause.
-- ARGV: …, claimer, '1' if all owners leave a fencing record, '1' if it keeps what it
-- holds, lowest and highest id of the page, then the ids, then a token for each.
-- Returns for each: 0 if no owner ever failed on it and it was pending at the claimer
-- already; {'claimed', failures, where it was pending, whether this claim counted the
-- last of them, how many of the kept ones are deaths, the reasons that are kept}; {'stale', token}, {'paused'} or {'gone'}.
--
-- Every command costs more than the work it does, so the page is looked up and
-- claimed as a whole; what is decided about each entry is decided in between.
local consumer, all_recorded, keeps = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3]
local low, high = ARGV[A + 4], ARGV[A + 5]
local IDS = A + 5
local count = (#ARGV - IDS) / 2
local TOKENS = IDS + count
local ids = {unpack(ARGV, IDS + 1, IDS + count)}
local stored = redis.call('HMGET', tokens, unpack(ids))

-- Whose it was is asked only where there may have been an owner: the rows of the
-- pending list are a tenth of what a page costs.
local look = all_recorded == '0'
for i = 1, look and 0 or count do
  look = look or stored[i]
end
local pending = look and pending_rows(ids, low, high)

-- While the service is paused nobody becomes an owner. Who is one goes on.
local is_paused
local function is_put_off(token, seen)
  if keeps == '1' or (token == seen and seen ~= NO_TOKEN) then
    return false
  end
  if is_paused == nil then
    local pause = redis.pcall('GET', KEYS[K + 1])
    if type(pause) == 'table' then
      local is_foreign = string.find(pause.err, 'WRONGTYPE', 1, true)
      error(is_foreign and {err = 'WRONGTYPE ' .. KEYS[K + 1] .. ' is no string'} or pause)
    end
    is_paused = pause and true
  end
  return is_paused
end

local command, claims = {'XCLAIM', lbs, group, consumer, '0'}, 0
local replies, records = {}, {}
for i = 1, count do
  local id, token = ids[i], ARGV[TOKENS + i]
  local seen, handed, failures, kept = NO_TOKEN, false, 0, ''
  if stored[i] then
    seen, handed, failures, kept = parse_record(stored[i], id)
  end
  if stored[i] and (token < seen or (token == seen and handed) or unreadable[id]) then
    replies[i] = refusal('stale', seen, id)
  elseif is_put_off(token, seen) then
    replies[i] = {'paused'}
  else
    local row = pending and pending[id]
    -- A lower token that was never handed back: its owner died of it.
    if seen ~= NO_TOKEN and token > seen and not handed then
      failures = failures + 1
      kept = with_failure(kept, death_of(seen, token, row and row[2]))
    end
    if failures == 0 and (not pending or (row and row[2] == consumer)) then
      replies[i] = 0
    else
      local reply = {'claimed', failures, row and row[2] or false, 0, 0}
      for _, failure in ipairs(failures > 0 and split_kept(kept) or {}) do
        local is_death = string.sub(failure, 1, 1) == 'd'
        reply[4] = is_death and string.sub(failure, 22, 41) == token and 1 or 0
        reply[5] = reply[5] + (is_death and 1 or 0)
        reply[#reply + 1] = string.sub(failure, 42)
      end
      replies[i] = reply
    end
    claims = claims + 1
    command[5 + claims] = id
    records[2 * claims - 1] = id
    records[2 * claims] = format_record(token, false, failures, kept)
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
  if not there[ids[i]] and not is_there(ids[i]) then
    replies[i] = {'gone'}
    clear(ids[i])
  end
end
return replies
