-- A page of what is on record for a session, in the order of the names.
-- KEYS: ….  ARGV: …, from where ('-', or '(' and a name), how many.
local streams = redis.call('ZRANGEBYLEX', leases_of(session), ARGV[4], '+', 'LIMIT', 0, ARGV[5])
local replies = {}
if #streams > 0 then
  local values = redis.call('HMGET', owners, unpack(streams))
  for i, stream in ipairs(streams) do
    local _, token, entry = parse_owner(values[i])
    replies[i] = {stream, entry, token}
  end
end
return replies
