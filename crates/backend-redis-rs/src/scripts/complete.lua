-- Fenced removal of a page of finished entries.
-- KEYS: LBS, fencing records.  ARGV: group, then (id, token) each.
local lbs, tokens = KEYS[1], KEYS[2]
local group = ARGV[1]
local replies = {}
for i = 2, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local seen = record(tokens, id)
  -- A refusal needs the entry to be there still: the record alone may be what
  -- a foreign consumer left behind when it removed the entry.
  if token < seen and fields_of(lbs, id) then
    replies[#replies + 1] = {'not_owner', seen}
  else
    redis.call('XACK', lbs, group, id)
    local removed = redis.call('XDEL', lbs, id)
    redis.call('HDEL', tokens, id)
    replies[#replies + 1] = {removed == 1 and 'done' or 'gone'}
  end
end
return replies
