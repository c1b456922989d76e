-- Appends those data streams of a page of a batch that the LBS has no entry of, once.
-- KEYS: ….  ARGV: …; without payloads it only reads what was announced.
-- Returns what became of each: its id, behind '=' if it was there, and behind
-- '+' if another batch with this key has appended it. Or 0 if nothing was done:
-- there is more to read first, or the server has lost what it knew of the batch. Or 1 if some
-- were done, and the next step does more: to look at entries takes time, too.
if known < before then
  return 0
end
local first = 1
while ids[first] do
  first = first + 1
end
if first <= count or count == 0 then
  local is_all = catch_up()
  if is_all ~= true then
    keep()
    return is_all or 0
  end
end
local last = count
if first <= count then
  local streams = {}
  for i = first, count do
    streams[i] = stream_of(ARGV[A + i])
  end
  local latest = redis.call('HMGET', announced, unpack(streams, first, count))
  local here, named = {}, {}
  for i = first, count do
    local stream, id = streams[i], latest[i - first + 1]
    local is_known = id and not here[stream] and not ids[i]
    local there = is_known and is_there(id, stream)
    if there == nil then
      -- Of the first it is known, as not too much was read before it.
      last = i - 1
      break
    end
    if ids[i] then
      -- This name was sent before.
    elseif here[stream] then
      remember(i, '=' .. here[stream])
    elseif there then
      remember(i, '=' .. id)
    else
      remember(i, redis.call('XADD', lbs, '*', field, ARGV[A + i]))
      here[stream] = ids[i]
      named[#named + 1] = stream
      named[#named + 1] = ids[i]
    end
  end
  if #named > 0 then
    redis.call('HSET', announced, '', named[#named], unpack(named))
    tidy(#named / 2)
  end
end
keep()
return last == count and ids or 1
