-- Puts a page of quarantined entries back on the LBS, each once.
-- KEYS: quarantine, its index, LBS, then for each entry where its new id is remembered.
-- ARGV: how long to remember (ms), most bytes, then (id, index member) each.
-- Once it has read so many bytes it stops: the answer is shorter then, and nothing was
-- done about the rest.
local quarantine, index, lbs = KEYS[1], KEYS[2], KEYS[3]
-- What XADD is given at most: the stack of Lua ends at about 8,000.
local MOST_PARTS = 7000

-- The names and values in a record of quarantine.lua; nil if it cannot be read.
local function fields_in(record)
  local parts, at = {}, 1
  while at <= #record do
    local length, from = string.match(record, '^(%d+):()', at)
    length = length and #length < 12 and tonumber(length)
    if not length or string.sub(record, from + length, from + length) ~= ',' then
      return nil
    end
    parts[#parts + 1] = string.sub(record, from, from + length - 1)
    at = from + length + 1
  end
  -- Reason, failures, who and when come first.
  local fields = {}
  for i = 5, #parts do
    fields[#fields + 1] = parts[i]
  end
  if #fields == 0 or #fields % 2 == 1 or #fields > MOST_PARTS then
    return nil
  end
  return fields
end

local replies, budget = {}, tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
  local id, member, new_id = ARGV[i], ARGV[i + 1], KEYS[3 + (i - 1) / 2]
  local record = redis.call('HGET', quarantine, id)
  local reply
  if record then
    budget = budget - #record
    local fields = fields_in(record)
    if fields then
      local released = redis.call('XADD', lbs, '*', unpack(fields))
      redis.call('SET', new_id, released, 'PX', ARGV[1])
      redis.call('HDEL', quarantine, id)
      redis.call('ZREM', index, member)
      reply = {'released', released}
    else
      reply = {'unreadable'}
    end
  else
    -- Released already, perhaps: the repeat of a call whose answer was lost.
    local released = redis.call('GET', new_id)
    reply = released and {'released', released} or {'gone'}
  end
  replies[#replies + 1] = reply
  if budget <= 0 then
    break
  end
end
return replies
