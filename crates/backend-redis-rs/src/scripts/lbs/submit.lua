-- Appends a page of a batch, once; behind batch.lua or keyed.lua.  KEYS: ….  ARGV: ….
-- Returns what became of each: its id. Behind '=', if the batch was to append what is absent
-- when it was sent before, and this was there; behind '+', if another batch with this key has
-- appended it. Nothing, if it was only asked for and is not known.
if known < before then
  -- The server lost its data since the page before: only the whole batch again helps.
  return redis.error_reply('BATCHLOST the batch was lost in the middle')
end
for i = 1, count do
  if not ids[i] and ARGV[A + i] ~= '' then
    remember(i, redis.call('XADD', lbs, '*', field, ARGV[A + i]))
  end
end
keep()
return ids
