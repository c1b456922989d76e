-- A page of what is on record for a session, in the order of the names.
-- KEYS: ….  ARGV: …, from where ('-', or '(' and a name), how many.
-- Returns (stream, entry, token) each. What the owners do not say (any more) is taken off
-- the session's list.
local from, most = ARGV[A + 1], tonumber(ARGV[A + 2])
local replies, looks = {}, 0
repeat
  local streams = redis.call('ZRANGEBYLEX', leases_of(session), from, '+', 'LIMIT', 0, most - #replies)
  local values = #streams > 0 and redis.call('HMGET', owners, unpack(streams))
  local none = {}
  for i, stream in ipairs(streams) do
    local token, entry = parse_owned(values[i], session)
    if token then
      replies[#replies + 1] = {stream, entry, token}
    else
      none[#none + 1] = stream
    end
    from = '(' .. stream
  end
  if #none > 0 then
    redis.call('ZREM', leases_of(session), unpack(none))
  end
  looks = looks + 1
until #none == 0 or looks == 20
return replies
