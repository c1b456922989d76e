-- Fenced removal of a page of finished entries, none of them twice.
-- KEYS: ….  ARGV: …, the ids, then a token for each.
-- Returns for each: 1, 0 if it was gone, or {'not_owner', token}.
local count = (#ARGV - A) / 2
local TOKENS = A + count
local stored = redis.call('HMGET', tokens, unpack(ARGV, A + 1, A + count))
local replies, off, ends = {}, {}, 0
for i = 1, count do
  local id, token = ARGV[A + i], ARGV[TOKENS + i]
  local seen = NO_TOKEN
  -- Mostly it is the very token that is on record; looking closer costs more.
  if stored[i] ~= token then
    seen = parse_record(stored[i], id)
  end
  -- A refusal needs the entry to be there still: the record alone may be what
  -- a foreign consumer left behind when it removed the entry.
  if seen ~= NO_TOKEN and (token < seen or unreadable[id]) and is_there(id) then
    replies[i] = refusal('not_owner', seen, id)
  else
    replies[i] = 1
    ends = ends + 1
    off[ends] = id
  end
end
if ends == 0 then
  return replies
end
-- All at once costs half of one by one, and tells only how many were there. If
-- some were not, those are that nobody has pending: whoever completes an entry
-- without fencing acknowledges it too.
local deleted = redis.call('XDEL', lbs, unpack(off))
if deleted < ends then
  for i = 1, count do
    if replies[i] == 1 and (deleted == 0 or not pending_at(ARGV[A + i])) then
      replies[i] = 0
    end
  end
end
-- After the deletion, not before: see quarantine.lua.
redis.call('XACK', lbs, group, unpack(off))
redis.call('HDEL', tokens, unpack(off))
return replies
