-- Shared head of the lock scripts.
--
-- A lock's value is "<session>/<token>/<entry>/<attempt>": 20 digits, an entry
-- id and 16 hex digits at the end, so that a session may contain slashes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Above every token, as core says. What is not below it somebody else has written, and
-- no later owner could have a greater one.
local TOKEN_LIMIT = '09000000000000000000'

local function is_token(text)
  return #text == 20 and text < TOKEN_LIMIT
end

local function number(n)
  return string.format('%.0f', n)
end

-- The session's deadline, nil if it is not known. Gone if not after `now`.
local function alive(sessions, session)
  local deadline = redis.call('ZSCORE', sessions, session)
  return deadline and tonumber(deadline) > now
end

-- The value of a lock key. A key of another type under that name is somebody
-- else's: held, by something that no session is.
local function value_of(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return '(a key of another type)'
  end
  return value
end

local function starts_with(text, head)
  return text and string.find(text, head, 1, true) == 1
end

-- Whether a member of the sessions is one: "<consumer>/<16 hex digits>".
local function is_session(name)
  return #name > 17 and string.match(string.sub(name, -17), '^/%x+$')
end

-- Milliseconds a key has still; -1 if for ever.
local function remaining(key)
  return redis.call('PTTL', key)
end

-- Those who were refused so long ago that they will not ask again. Not all of many at
-- once; each page that adds some takes at least as many away.
local function forget_refused(refused)
  local old = redis.call('ZRANGEBYSCORE', refused, '-inf', number(now), 'LIMIT', 0, 256)
  if #old > 0 then
    redis.call('ZREM', refused, unpack(old))
  end
  redis.call('PEXPIRE', refused, 7200000)
end
