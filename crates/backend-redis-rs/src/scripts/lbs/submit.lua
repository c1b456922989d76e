-- Appends a page of a batch, once.
-- KEYS: LBS, the batch's ids so far.
-- ARGV: how many of the batch come before this page, how long to remember (ms),
--       the payload's field name, then the payloads.
-- Returns their ids.
local lbs, batch = KEYS[1], KEYS[2]
local before, ttl, field = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local A = 3
local count = #ARGV - A
local known = redis.call('LLEN', batch)
if known < before then
  -- The server lost its data since the page before: only the whole batch again helps.
  return redis.error_reply('BATCHLOST the batch was lost in the middle')
end
local ids = known > before and redis.call('LRANGE', batch, before, before + count - 1) or {}
local appended = {}
for i = #ids + 1, count do
  ids[i] = redis.call('XADD', lbs, '*', field, ARGV[A + i])
  appended[#appended + 1] = ids[i]
end
if #appended > 0 then
  redis.call('RPUSH', batch, unpack(appended))
end
redis.call('PEXPIRE', batch, ttl)
return ids
