-- Who holds each of a page of data streams.
-- KEYS: ….  ARGV: …, data streams.
-- Returns for each: {'free'} or {'held', ms, value}.
local values = redis.call('HMGET', owners, unpack(ARGV, A + 1))
local replies = {}
for i = 1, #values do
  local who = parse_owner(values[i])
  if who and deadline_of(who) > now then
    replies[i] = {'held', deadline_of(who) - now, values[i]}
  else
    replies[i] = {'free'}
  end
end
return replies
