-- Fenced parking of a page of entries, with payload and reason.
-- KEYS: LBS, fencing records, quarantine, its index.
-- ARGV: group, caller, then (id, token, reason, index member) each.
-- Returns for each: 1, 0 if it was gone, or {'not_owner', token}.
local lbs, tokens, quarantine, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))

-- Length-prefixed, so that any bytes survive; read by decode.rs.
local function piece(text)
  return #text .. ':' .. text .. ','
end

local replies = {}
for i = 3, #ARGV, 4 do
  local id, token, reason, member = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local seen, _, failures = record(tokens, id)
  local fields = fields_of(lbs, id)
  local reply
  if not fields then
    -- Parked already, perhaps: the repeat of a call whose answer was lost.
    clear(lbs, group, tokens, id)
    reply = 0
  elseif token < seen then
    reply = {'not_owner', seen}
  else
    local parts = {piece(reason), piece(string.format('%d', failures)), piece(consumer), piece(now)}
    for f = 1, #fields do
      parts[#parts + 1] = piece(fields[f])
    end
    redis.call('HSET', quarantine, id, table.concat(parts))
    redis.call('ZADD', index, 0, member)
    -- In this order: what is deleted and still pending is found and cleared away,
    -- what is acknowledged and still there would be looked for by nobody. Redis 7.0
    -- can execute half a transaction, two starts after its log was cut off in one.
    redis.call('XDEL', lbs, id)
    redis.call('XACK', lbs, group, id)
    redis.call('HDEL', tokens, id)
    reply = 1
  end
  replies[#replies + 1] = reply
end
return replies
