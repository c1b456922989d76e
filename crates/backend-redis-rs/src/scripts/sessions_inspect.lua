-- Who holds each of a page of data streams.  KEYS: ….  ARGV: …, data streams.
local streams = {}
for i = 4, #ARGV do
  streams[i - 3] = ARGV[i]
end
local values = redis.call('HMGET', owners, unpack(streams))
local replies = {}
for i = 1, #streams do
  local who = parse_owner(values[i])
  if who and deadline_of(who) > now then
    replies[i] = {'held', deadline_of(who) - now, values[i]}
  else
    replies[i] = {'free'}
  end
end
return replies
