-- Fenced hand back of a page of entries, none of them twice, announced in the
-- same step.
-- KEYS: …, hints channel.
-- ARGV: …, caller, idle time to show (ms), lowest and highest id of the page,
-- then the ids, then a token for each, then '1' for each that is to rest and '0' for
-- the others, then the reason of each that failed and '' for the others.
-- Returns for each: 1, 0 if it was gone, or {'not_owner', token}.
local channel = KEYS[K + 1]
local consumer, idle, low, high = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3], ARGV[A + 4]
local IDS = A + 4
local count = (#ARGV - IDS) / 4
local TOKENS, RESTS, REASONS = IDS + count, IDS + 2 * count, IDS + 3 * count
local ids = {unpack(ARGV, IDS + 1, IDS + count)}
local stored = redis.call('HMGET', tokens, unpack(ids))
local pending = pending_rows(ids, low, high)

-- It stays where it is pending, looking so idle that consumers which go by idle
-- time alone take it at once; but if it is to rest, idle since now, so that everybody
-- can see for how long it has.
local moves = {}
local function show_idle(id, rests)
  local whose = pending[id] and pending[id][2] or consumer
  local shown = rests and '0' or idle
  local key = shown .. ' ' .. whose
  moves[key] = moves[key] or {shown = shown, command = {'XCLAIM', lbs, group, whose, '0'}}
  table.insert(moves[key].command, id)
end

local replies, records, there, back = {}, {}, {}, {}
local function put(id, token, handed, failures, kept)
  records[#records + 1] = id
  records[#records + 1] = format_record(token, handed, failures, kept)
end

-- Its owner was counted as dead, and lives.
local function take_back(id, token, reason, seen, handed, failures, kept)
  local list = split_kept(kept)
  local failure, at = failure_of(list, token)
  if not failure or string.sub(failure, 1, 1) ~= 'd' then
    return
  end
  if reason ~= '' then
    list[at] = failed_of(token, reason)
  else
    table.remove(list, at)
    failures = failures - 1
  end
  put(id, seen, handed, failures, join_kept(list))
  if handed then
    -- It need not rest for so long any more.
    back[#back + 1] = id
  end
end

for i = 1, count do
  local id, token, rests = ids[i], ARGV[TOKENS + i], ARGV[RESTS + i] == '1'
  local reason = ARGV[REASONS + i]
  local seen, handed, failures, kept = parse_record(stored[i], id)
  replies[i] = 1
  if token < seen or unreadable[id] then
    replies[i] = refusal('not_owner', seen, id)
    there[id] = is_there(id)
    if failures > 0 and there[id] then
      take_back(id, token, reason, seen, handed, failures, kept)
    end
  elseif handed and token == seen then
    -- A repeat must not count the failure again, nor start its rest anew.
    if rests and pending[id] then
      there[id] = is_there(id)
    else
      show_idle(id, rests)
    end
  else
    if reason ~= '' then
      failures = failures + 1
      kept = with_failure(kept, failed_of(token, reason))
    end
    put(id, token, true, failures, kept)
    show_idle(id, rests)
  end
end

-- Only what is on the LBS comes back. FORCE: pending at nobody it would only be
-- seen again if the group had not read past it.
for _, move in pairs(moves) do
  for _, option in ipairs({'IDLE', move.shown, 'FORCE', 'JUSTID'}) do
    table.insert(move.command, option)
  end
  for _, id in ipairs(redis.call(unpack(move.command))) do
    there[id] = true
  end
end
if #records > 0 then
  redis.call('HSET', tokens, unpack(records))
end
for i = 1, count do
  if not there[ids[i]] then
    replies[i] = 0
    clear(ids[i])
  elseif replies[i] == 1 then
    back[#back + 1] = ids[i]
  end
end
if #back > 0 then
  publish(channel, 'H' .. table.concat(back, ' '))
end
return replies
