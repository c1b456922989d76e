-- Resets the failures of a page of entries, none of them twice, whose owners have
-- held them for long.
-- KEYS: ….  ARGV: …, the ids, then a token for each.  Returns {}.
local count = (#ARGV - A) / 2
local TOKENS = A + count
local ids = {unpack(ARGV, A + 1, A + count)}
local stored = redis.call('HMGET', tokens, unpack(ids))
local records = {}
for i = 1, count do
  local seen, handed, failures = parse_record(stored[i], ids[i])
  if stored[i] and failures > 0 and not handed and seen == ARGV[TOKENS + i] then
    records[#records + 1] = ids[i]
    records[#records + 1] = format_record(seen, false, 0)
  end
end
if #records > 0 then
  redis.call('HSET', tokens, unpack(records))
end
return {}
