-- Fenced hand back of a page of entries, none of them twice, announced in the
-- same step.
-- KEYS: LBS, fencing records, hints channel.
-- ARGV: group, caller, idle time to show (ms), lowest and highest id of the page,
-- then the ids, then a token for each, then '1' for each that failed and '0' for
-- the others.
-- Returns for each: 1, 0 if it was gone, or {'not_owner', token}.
local lbs, tokens, channel = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, idle = ARGV[1], ARGV[2], ARGV[3]
local count = (#ARGV - 5) / 3
local ids = {unpack(ARGV, 6, 5 + count)}
local stored = redis.call('HMGET', tokens, unpack(ids))
local pending = pending_rows(lbs, group, ids, ARGV[4], ARGV[5])

-- It stays where it is pending, looking so idle that consumers which go by idle
-- time alone take it at once; but if it failed, idle since now, so that everybody
-- can see for how long it has rested.
local moves = {}
local function show_idle(id, failed)
  local whose = pending[id] and pending[id][2] or consumer
  local shown = failed and '0' or idle
  local key = shown .. ' ' .. whose
  moves[key] = moves[key] or {shown = shown, command = {'XCLAIM', lbs, group, whose, '0'}}
  table.insert(moves[key].command, id)
end

local replies, records, there = {}, {}, {}
for i = 1, count do
  local id, token, failed = ids[i], ARGV[5 + count + i], ARGV[5 + 2 * count + i] == '1'
  local seen, handed, failures = parse_record(stored[i])
  replies[i] = 1
  if token < seen then
    replies[i] = {'not_owner', seen}
    there[id] = fields_of(lbs, id) and true
  elseif handed and token == seen then
    -- A repeat must not count the failure again, nor start its rest anew.
    if failed and pending[id] then
      there[id] = fields_of(lbs, id) and true
    else
      show_idle(id, failed)
    end
  else
    records[#records + 1] = id
    records[#records + 1] = format_record(token, true, failures + (failed and 1 or 0))
    show_idle(id, failed)
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
local back = {}
for i = 1, count do
  if not there[ids[i]] then
    replies[i] = 0
    clear(lbs, group, tokens, ids[i])
  elseif replies[i] == 1 then
    back[#back + 1] = ids[i]
  end
end
if #back > 0 then
  -- pcall: a user without rights on channels must not fail for a mere hint.
  redis.pcall('PUBLISH', channel, 'H' .. table.concat(back, ' '))
end
return replies
