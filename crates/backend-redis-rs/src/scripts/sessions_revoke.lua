-- Marks leases to be given up; their owners hear of it by their next beat.
-- KEYS: ….  ARGV: …, data streams.
local replies = {}
for i = 4, #ARGV do
  local who, token = parse_owner(redis.call('HGET', owners, ARGV[i]))
  if who then
    redis.call('HSET', marks_of(who), ARGV[i], token)
  end
  replies[#replies + 1] = who and 1 or 0
end
return replies
