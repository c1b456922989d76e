-- Marks leases to be released; their owners hear of it by their next heartbeat.
-- KEYS: ….  ARGV: …, data streams.
-- Returns for each: 1, or 0 if nobody holds it.
local replies = {}
for i = A + 1, #ARGV do
  local stream = ARGV[i]
  local who, token = parse_owner(redis.call('HGET', owners, stream))
  if who then
    redis.call('HSET', marks_of(who), stream, token)
  end
  replies[#replies + 1] = who and 1 or 0
end
return replies
