-- Which data streams are announced; behind batch.lua.
-- KEYS: …, the announced data streams.
--
-- A hash has the latest entry of each data stream, and in the field without a name up to
-- where the LBS was read for it. So whoever appends, deletes or quarantines need not know of
-- it: what was appended since is read first, and an entry counts only if it is there still.
-- If the hash is lost, the LBS is read anew.
local announced = KEYS[K + 1]

-- Entries, and bytes, that are read at once at most: a millisecond.
local MOST_READ, MOST_BYTES = 200, 262144
-- What nearly all payloads begin with; those of Go, too.
local HEAD = '^%s*{%s*"DataStreamName"%s*:%s*"'

-- The data stream of a payload, nil if it cannot be told. Of a long one only the beginning
-- is read.
local function stream_of(payload)
  local _, quote = string.find(payload, HEAD)
  if not quote then
    local is_read, all = pcall(cjson.decode, #payload < 65536 and payload or '')
    for key, value in pairs(is_read and type(all) == 'table' and all or {}) do
      if type(key) == 'string' and string.lower(key) == 'datastreamname' then
        return type(value) == 'string' and value or nil
      end
    end
    return nil
  end
  local at = quote + 1
  while true do
    at = string.find(payload, '["\\]', at)
    if not at then
      return nil
    end
    if string.sub(payload, at, at) == '"' then
      break
    end
    at = at + 2
  end
  local name = string.sub(payload, quote, at)
  if not string.find(name, '\\', 1, true) then
    return string.sub(name, 2, -2)
  end
  local is_read, names = pcall(cjson.decode, '[' .. name .. ']')
  return is_read and names[1] or nil
end

-- pcall: there may be no group.
local function is_pending(id)
  return redis.pcall('XPENDING', lbs, group, id, id, 1)[1]
end

local unread = MOST_BYTES
-- The data stream of an entry.
local function stream_in(fields)
  local stream
  for f = 1, #fields, 2 do
    unread = unread - #fields[f] - #fields[f + 1]
    if fields[f] == field and not stream then
      stream = stream_of(fields[f + 1])
    end
  end
  return stream
end

-- Whether this is an entry of that data stream, and on the LBS. That can be asked only with
-- its payload; once those were long, an entry that is pending counts as there, and of others
-- it is not known (nil).
local function is_there(id, stream)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  if not ms or #ms > 19 or #seq > 19 then
    return false
  end
  if unread <= 0 then
    return is_pending(id) and true or nil
  end
  local found = redis.call('XRANGE', lbs, id, id)[1]
  return found ~= nil and stream_in(found[2]) == stream
end

-- If more than half of the hash is gone from the LBS: to look at twice as much as was added
-- keeps it from growing. Who lacks the rights does not tidy up.
local function tidy(added)
  local total = redis.pcall('XLEN', lbs)
  if type(total) == 'table' or redis.call('HLEN', announced) <= 2 * total + 100 then
    return
  end
  local some = redis.pcall('HRANDFIELD', announced, 2 * added + 20, 'WITHVALUES')
  local gone = {}
  for i = 1, #some, 2 do
    local stream, id = some[i], some[i + 1]
    -- What is pending costs a fifth to find. Is its entry gone, it stays for another time.
    if stream ~= '' and not is_pending(id) and is_there(id, stream) == false then
      gone[#gone + 1] = stream
    end
  end
  if #gone > 0 then
    redis.call('HDEL', announced, unpack(gone))
  end
end

-- Reads what was appended since, up to a limit. Returns whether that is all, or an error.
local function catch_up()
  local cursor = redis.pcall('HGET', announced, '')
  if type(cursor) == 'table' then
    local is_no_hash = string.sub(cursor.err, 1, 9) == 'WRONGTYPE'
    return is_no_hash and redis.error_reply('WRONGTYPE ' .. announced .. ' is no hash') or cursor
  end
  local ms, seq = string.match(cursor or '', '^(%d+)%-(%d+)$')
  if not ms or #ms > 19 or #seq > 19 then
    cursor = '0-0'
  end
  local added, read, ask = {}, 0, 1
  while read < MOST_READ and unread > 0 do
    local entries = redis.call('XRANGE', lbs, '(' .. cursor, '+', 'COUNT', ask)
    for i = 1, #entries do
      cursor = entries[i][1]
      local stream = stream_in(entries[i][2])
      if stream and stream ~= '' then
        added[#added + 1] = stream
        added[#added + 1] = cursor
      end
    end
    read = read + #entries
    if #entries < ask then
      break
    end
    -- As many as will fit if the next are as long as these.
    local each = (MOST_BYTES - unread) / read
    ask = math.max(1, math.min(MOST_READ - read, math.floor(unread / each / 2)))
  end
  if read > 0 then
    redis.call('HSET', announced, '', cursor, unpack(added))
    tidy(read)
  end
  -- Tidying reads, too. Whoever goes on after this can look at one entry at least.
  return read < MOST_READ and unread > 0
end
