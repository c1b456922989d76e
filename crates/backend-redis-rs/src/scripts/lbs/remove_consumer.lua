-- Removes a consumer's name from the group if nothing is pending at it. In two
-- steps an entry delivered in between would lose its place in the pending list.
-- KEYS: LBS.  ARGV: group, consumer.
-- Returns 1, or 0 if something is pending.
local lbs, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local rows = redis.call('XPENDING', lbs, group, '-', '+', 1, consumer)
if #rows > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', lbs, group, consumer)
return 1
