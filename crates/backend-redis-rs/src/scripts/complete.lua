-- Fenced removal of a page of finished entries.
-- KEYS: LBS, fencing records.  ARGV: group, then (id, token) each.
local lbs, tokens = KEYS[1], KEYS[2]
local group = ARGV[1]
local ids = {}
for i = 2, #ARGV, 2 do
  ids[#ids + 1] = ARGV[i]
end
local stored = redis.call('HMGET', tokens, unpack(ids))
local replies, off = {}, {}
for i, id in ipairs(ids) do
  local seen = parse_record(stored[i])
  -- A refusal needs the entry to be there still: the record alone may be what
  -- a foreign consumer left behind when it removed the entry.
  if ARGV[2 * i + 1] < seen and fields_of(lbs, id) then
    replies[i] = {'not_owner', seen}
  else
    -- One by one: of a list it would only tell how many were there.
    replies[i] = {redis.call('XDEL', lbs, id) == 1 and 'done' or 'gone'}
    off[#off + 1] = id
  end
end
if #off > 0 then
  redis.call('XACK', lbs, group, unpack(off))
  redis.call('HDEL', tokens, unpack(off))
end
return replies
