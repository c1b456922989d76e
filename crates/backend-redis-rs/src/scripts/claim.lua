-- Fenced claim of a page of entries.
-- KEYS: LBS, fencing records.  ARGV: group, claimer, then (id, token) each.
local lbs, tokens = KEYS[1], KEYS[2]
local group, consumer = ARGV[1], ARGV[2]
local replies = {}
for i = 3, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local seen, handed, failures = record(tokens, id)
  local reply
  if not fields_of(lbs, id) then
    clear(lbs, group, tokens, id)
    reply = {'gone'}
  elseif token < seen or (token == seen and handed) then
    reply = {'stale', seen}
  else
    local from = pending_at(lbs, group, id)
    -- A lower token that was never handed back: its owner crashed on it.
    if token > seen and seen ~= NO_TOKEN and not handed then
      failures = failures + 1
    end
    -- FORCE: the group may have been made anew, then nobody has it pending.
    if from == consumer then
      -- Keeping is no delivery; JUSTID leaves the count as it is.
      redis.call('XCLAIM', lbs, group, consumer, 0, id, 'FORCE', 'JUSTID')
    else
      redis.call('XCLAIM', lbs, group, consumer, 0, id, 'FORCE')
    end
    remember(tokens, id, token, false, failures)
    reply = {'claimed', failures, from or false}
  end
  replies[#replies + 1] = reply
end
return replies
