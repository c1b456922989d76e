-- Removes a page of quarantined entries for good.
-- KEYS: quarantine, its index.  ARGV: (id, index member) each.
local replies = {}
for i = 1, #ARGV, 2 do
  redis.call('ZREM', KEYS[2], ARGV[i + 1])
  replies[#replies + 1] = redis.call('HDEL', KEYS[1], ARGV[i])
end
return replies
