-- Removes a consumer's name from the group if nothing is pending at it. In two
-- steps an entry delivered in between would lose its place in the pending list.
-- KEYS: LBS.  ARGV: group, consumer.
local rows = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if #rows > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
