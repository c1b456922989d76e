-- Fenced hand back of a page of entries, announced in the same step.
-- KEYS: LBS, fencing records, hints channel.
-- ARGV: group, caller, idle time to show (ms), then (id, token, failed) each.
-- Returns for each: 1, 0 if it was gone, or {'not_owner', token}.
local lbs, tokens, channel = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, idle = ARGV[1], ARGV[2], ARGV[3]
local replies, back = {}, {}
for i = 4, #ARGV, 3 do
  local id, token, failed = ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1'
  local seen, handed, failures = record(tokens, id)
  local reply
  if not fields_of(lbs, id) then
    clear(lbs, group, tokens, id)
    reply = 0
  elseif token < seen then
    reply = {'not_owner', seen}
  else
    -- A repeat must not count the failure again, nor start its rest anew.
    local repeated = handed and token == seen
    if not repeated then
      remember(tokens, id, token, true, failures + (failed and 1 or 0))
    end
    -- It stays where it is pending, looking so idle that consumers which go by
    -- idle time alone take it at once; but if it failed, idle since now, so
    -- that everybody can see for how long it has rested. FORCE: pending at
    -- nobody it would only be seen again if the group had not read past it.
    local at = pending_at(lbs, group, id)
    if not (repeated and failed and at) then
      redis.call('XCLAIM', lbs, group, at or consumer, 0, id,
        'IDLE', failed and '0' or idle, 'FORCE', 'JUSTID')
    end
    back[#back + 1] = id
    reply = 1
  end
  replies[#replies + 1] = reply
end
if #back > 0 then
  -- pcall: a user without rights on channels must not fail for a mere hint.
  redis.pcall('PUBLISH', channel, 'H' .. table.concat(back, ' '))
end
return replies
