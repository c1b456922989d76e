-- Appends a page of a batch, once.  KEYS: ….  ARGV: ….
-- Returns what became of each: its id. Behind '=', if the batch was to append what is absent
-- when it was sent before, and this was there.
if known < before then
  -- The server lost its data since the page before: only the whole batch again helps.
  return redis.error_reply('BATCHLOST the batch was lost in the middle')
end
for i = #ids + 1, count do
  ids[i] = redis.call('XADD', lbs, '*', field, ARGV[A + i])
  added[#added + 1] = ids[i]
end
if #added > 0 then
  redis.call('RPUSH', batch, unpack(added))
end
redis.call('PEXPIRE', batch, ttl)
return ids
