-- Fenced quarantining of a page of entries, none of them twice, with payload and reason.
-- KEYS: …, quarantine, its index.
-- ARGV: …, caller, most bytes, then the ids, then for each a token, how many failures
-- must be on record, a reason and an index member.
-- Returns for each: 1, 0 if it was gone, 2 if it has failed less often, or
-- {'not_owner', token}. Once it has read so many bytes it stops: the answer is shorter
-- then, and nothing was done about the rest.
local quarantine, index = KEYS[K + 1], KEYS[K + 2]
local consumer, budget = ARGV[A + 1], tonumber(ARGV[A + 2])
local IDS = A + 2
local count = (#ARGV - IDS) / 5
local TOKENS, MIN_FAILURES = IDS + count, IDS + 2 * count
local REASONS, MEMBERS = IDS + 3 * count, IDS + 4 * count
local now = ms_at(redis.call('TIME'))
local stored = redis.call('HMGET', tokens, unpack(ARGV, IDS + 1, IDS + count))

local replies, off, quarantined, blobs, members = {}, {}, {}, {}, {}
for i = 1, count do
  local id, token = ARGV[IDS + i], ARGV[TOKENS + i]
  local min_failures = tonumber(ARGV[MIN_FAILURES + i])
  local reason, member = ARGV[REASONS + i], ARGV[MEMBERS + i]
  local seen, _, failures, kept = parse_record(stored[i], id)
  local fields = fields_of(id)
  for f = 1, fields and #fields or 0 do
    budget = budget - #fields[f]
  end
  if fields and (token < seen or unreadable[id]) then
    replies[i] = refusal('not_owner', seen, id)
  elseif fields and failures < min_failures then
    replies[i] = 2
  else
    replies[i] = fields and 1 or 0
    -- What is gone was perhaps quarantined already: the repeat of a call whose answer was
    -- lost. Then this clears what somebody else may have left of it.
    off[#off + 1] = id
  end
  if replies[i] == 1 then
    -- With the number of failures, as in the fencing record, what is kept of them.
    local failed = string.format('%d', failures) .. (failures > 0 and ':' .. kept or '')
    local parts = {piece(reason), piece(failed), piece(consumer), piece(number(now))}
    for f = 1, #fields do
      parts[#parts + 1] = piece(fields[f])
    end
    quarantined[#quarantined + 1] = id
    blobs[#blobs + 1] = id
    blobs[#blobs + 1] = table.concat(parts)
    members[#members + 1] = '0'
    members[#members + 1] = member
  end
  if budget <= 0 then
    break
  end
end

-- All at once: one by one costs twice as much, and that is over two milliseconds.
-- In this order: what is deleted and still pending is found and cleared away,
-- what is acknowledged and still there would be looked for by nobody. Redis 7.0
-- can execute half a transaction, two starts after its log was cut off in one.
if #quarantined > 0 then
  redis.call('HSET', quarantine, unpack(blobs))
  redis.call('ZADD', index, unpack(members))
  redis.call('XDEL', lbs, unpack(quarantined))
end
if #off > 0 then
  redis.call('XACK', lbs, group, unpack(off))
  redis.call('HDEL', tokens, unpack(off))
end
return replies
