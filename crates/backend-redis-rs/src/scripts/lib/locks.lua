-- What both lock managers share; base.lua comes before it.

local time = redis.call('TIME')
local now = ms_at(time)

-- A lease's value is "<session>/<token>/<entry>/<attempt>": 20 digits, an entry
-- id and 16 hex digits at the end, so that a session may contain slashes.
local function lease_value(session, token, entry, attempt)
  return session .. '/' .. token .. '/' .. entry .. '/' .. attempt
end

-- Session, token, entry and attempt of a value; nil if it is none.
local function parse_value(value)
  return string.match(value, '^(.*)/(%d+)/(%d+%-%d+)/(%x+)$')
end

-- The value of a key. A key of another type under that name is somebody else's: held,
-- by something that no session is.
local function value_of(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return '(a key of another type)'
  end
  return value
end

-- Milliseconds a key has still; -1 if for ever.
local function remaining(key)
  return redis.call('PTTL', key)
end

-- Whether a session is known, and its deadline after `now`.
local function alive(sessions, session)
  local deadline = redis.call('ZSCORE', sessions, session)
  return deadline and tonumber(deadline) > now
end

-- Whether a member of the sessions is one: "<consumer>/<16 hex digits>".
local function is_session(name)
  return #name > 17 and string.match(string.sub(name, -17), '^/%x+$')
end

-- The answer to a caller whose locks are not those on record; nil if they are, or if
-- there is no record.
local function other_scheme(key, own)
  local scheme = redis.call('GET', key)
  return scheme and scheme ~= own and {'other', scheme} or nil
end

-- A request that is an hour late is not to be expected any more.
local REMOVED_FOR = 3600000

local function remember_removed(removed, session)
  redis.call('ZADD', removed, number(now), session)
  redis.call('ZREMRANGEBYSCORE', removed, '-inf', number(now - REMOVED_FOR))
  redis.call('PEXPIRE', removed, REMOVED_FOR)
end

-- Notes that somebody was refused a data stream whose lease has `left` ms still. Whoever
-- releases it tells; kept for as long as the refused is sure to ask again.
local function note_refused(refused, stream, left, ttl)
  redis.call('ZADD', refused, number(now + 2 * math.max(left, ttl)), stream)
end

-- Drops those who were refused so long ago that they will not ask again. Not all of many
-- at once; each page that adds some takes at least as many away.
local function drop_refused(refused)
  local old = redis.call('ZRANGEBYSCORE', refused, '-inf', number(now), 'LIMIT', 0, 256)
  if #old > 0 then
    redis.call('ZREM', refused, unpack(old))
  end
  redis.call('PEXPIRE', refused, 7200000)
end

-- Whether somebody waits who was refused a data stream that is free now. It is not on
-- record any more then.
local has_refused
local function take_refused(refused, stream)
  -- Mostly nobody was refused anything.
  if has_refused == nil then
    has_refused = redis.call('EXISTS', refused) == 1
  end
  local until_ms = has_refused and redis.call('ZSCORE', refused, stream)
  if not until_ms then
    return false
  end
  redis.call('ZREM', refused, stream)
  return tonumber(until_ms) > now
end
