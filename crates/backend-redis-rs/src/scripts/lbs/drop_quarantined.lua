-- Removes a page of quarantined entries for good.
-- KEYS: quarantine, its index.  ARGV: (id, index member) each.
-- Returns for each: 1, or 0 if it was not there.
local quarantine, index = KEYS[1], KEYS[2]
local replies = {}
for i = 1, #ARGV, 2 do
  local id, member = ARGV[i], ARGV[i + 1]
  redis.call('ZREM', index, member)
  replies[#replies + 1] = redis.call('HDEL', quarantine, id)
end
return replies
