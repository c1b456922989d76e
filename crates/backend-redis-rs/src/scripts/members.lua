-- The live sessions with the time they have still.  KEYS: sessions.
local rows = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. number(now), '+inf', 'WITHSCORES')
local replies = {}
for i = 1, #rows, 2 do
  replies[#replies + 1] = {rows[i], rows[i + 1] - now}
end
return replies
