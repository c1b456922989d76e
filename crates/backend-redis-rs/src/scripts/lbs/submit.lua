-- Appends a page of a batch, once; perhaps only the data streams that the LBS has no entry of.
-- KEYS: LBS, what became of the batch so far, the announced data streams.
-- ARGV: group, how many of the batch come before this page, how long to remember (ms), the
--       payload's field name, '1' for: only what is absent, then a payload and its data
--       stream each.
-- Returns the id of each; behind '=' if it was there already.
--
-- The announced data streams are a hash of their latest entries. It only says where to look:
-- whoever takes an entry off the LBS does not know of it. An entry counts if it is still there.
local lbs, batch, announced = KEYS[1], KEYS[2], KEYS[3]
local group, before, ttl, field = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local if_absent = ARGV[5] == '1'
local A = 5
local count = (#ARGV - A) / 2
local known = redis.call('LLEN', batch)
if known < before then
  -- The server lost its data since the page before: only the whole batch again helps.
  return redis.error_reply('BATCHLOST the batch was lost in the middle')
end
local ids = known > before and redis.call('LRANGE', batch, before, before + count - 1) or {}
local first = #ids + 1
if first > count then
  redis.call('PEXPIRE', batch, ttl)
  return ids
end

-- Once so many bytes were read, an entry that is pending counts as there: that it is can be
-- asked only with its payload.
local unread = 262144

-- Whether this is an entry of that data stream, and on the LBS.
local function is_there(id, stream)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  if not ms or #ms > 19 or #seq > 19 then
    return false
  end
  if unread <= 0 then
    -- pcall: there may be no group.
    local rows = redis.pcall('XPENDING', lbs, group, id, id, 1)
    if rows[1] then
      return true
    end
  end
  local fields = redis.call('XRANGE', lbs, id, id)[1]
  fields = fields and fields[2]
  for f = 1, fields and #fields or 0 do
    unread = unread - #fields[f]
  end
  local payload = fields and payload_in(fields, field)
  return payload and stream_of(payload) == stream
end

-- If more than half of the hash is gone from the LBS: to look at more than is to be added
-- keeps it from growing. Who lacks the rights does not tidy up.
local function tidy(size)
  local total = redis.pcall('XLEN', lbs)
  if type(total) == 'table' or size <= 2 * total + 100 then
    return
  end
  local some = redis.pcall('HRANDFIELD', announced, 3 * (count - first) + 23, 'WITHVALUES')
  local gone = {}
  for i = 1, #some, 2 do
    if not is_there(some[i + 1], some[i]) then
      gone[#gone + 1] = some[i]
    end
  end
  if #gone > 0 then
    redis.call('HDEL', announced, unpack(gone))
  end
end

-- All that may be refused comes before anything is appended.
local size = redis.pcall('HLEN', announced)
if type(size) == 'number' then
  tidy(size)
elseif string.sub(size.err, 1, 9) ~= 'WRONGTYPE' then
  return size
elseif if_absent then
  return redis.error_reply('WRONGTYPE the key ' .. announced .. ' is no hash; delete it')
else
  -- Who announces without asking needs no hash.
  announced = nil
end

local there, here = {}, {}
if if_absent then
  local streams = {}
  for i = first, count do
    streams[i] = ARGV[A + 2 * i]
  end
  there = redis.call('HMGET', announced, unpack(streams, first, count))
end
local became, named = {}, {}
for i = first, count do
  local stream = ARGV[A + 2 * i]
  local id = here[stream] or there[i - first + 1]
  if id and (here[stream] or is_there(id, stream)) then
    ids[i] = '=' .. id
  else
    id = redis.call('XADD', lbs, '*', field, ARGV[A + 2 * i - 1])
    ids[i] = id
    if if_absent then
      here[stream] = id
    end
    named[#named + 1] = stream
    named[#named + 1] = id
  end
  became[#became + 1] = ids[i]
end
redis.call('RPUSH', batch, unpack(became))
redis.call('PEXPIRE', batch, ttl)
if announced and #named > 0 then
  redis.call('HSET', announced, unpack(named))
end
return ids
