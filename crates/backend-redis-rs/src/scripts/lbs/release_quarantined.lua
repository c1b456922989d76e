-- Puts a page of quarantined entries back on the LBS, each once.
-- KEYS: quarantine, its index, LBS, then for each entry where its new id is remembered.
-- ARGV: how long to remember (ms), most bytes, then (id, index member) each.
-- Returns for each: {'released', new id}, {'unreadable'} or {'gone'}. Once it has read so
-- many bytes it stops: the answer is shorter then, and nothing was done about the rest.
local quarantine, index, lbs = KEYS[1], KEYS[2], KEYS[3]
local memory, budget = ARGV[1], tonumber(ARGV[2])
local K, A = 3, 2
-- What XADD is given at most: the stack of Lua ends at about 8,000.
local MOST_PARTS = 7000

-- The names and values in a record of quarantine.lua; nil if it cannot be read.
local function fields_in(record)
  local parts = texts_in(record) or {}
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

local replies = {}
for i = 1, (#ARGV - A) / 2 do
  local id, member, new_id = ARGV[A + 2 * i - 1], ARGV[A + 2 * i], KEYS[K + i]
  local record = redis.call('HGET', quarantine, id)
  local reply
  if record then
    budget = budget - #record
    local fields = fields_in(record)
    if fields then
      local released = redis.call('XADD', lbs, '*', unpack(fields))
      redis.call('SET', new_id, released, 'PX', memory)
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
  replies[i] = reply
  if budget <= 0 then
    break
  end
end
return replies
