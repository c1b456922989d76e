-- Shared head of the scripts of session leases; lock.lua comes before it.
--
-- KEYS of every one: sessions (by deadline), owners (data stream → value), what
-- is known of the server, details of the sessions, and the beginning of the keys
-- with the data streams of one session. That one is no key itself; the session's
-- name is added here, behind the same hash tag.
-- ARGV of every one: session, ttl (ms), what the server's clock should show by
-- the caller's (ms, 0: not known).
--
-- An owner's value is as a lock's: "<session>/<token>/<entry>/<attempt>". It is
-- what decides; the data streams of a session are kept beside it, in one sorted
-- set by name, to be counted, listed and taken over.
local sessions, owners, server, details = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local session, ttl, expected = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function leases_of(who)
  return KEYS[5] .. who
end

-- Data stream → token of the lease that is to be given up.
local function marks_of(who)
  return KEYS[5] .. who .. ':marks'
end

local function parse_owner(value)
  if value then
    return string.match(value, '^(.*)/(%d+)/(%d+%-%d+)/(%x+)$')
  end
end

-- The token, entry and attempt of a value, if it is one of this session's. Faster
-- than looking for the owner's end.
local function parse_owned(value, who)
  if starts_with(value, who .. '/') then
    return string.match(value, '^(%d+)/(%d+%-%d+)/(%x+)$', #who + 2)
  end
end

-- Deadlines are looked up once per call. 0: not known, or declared dead.
local deadlines = {}
local function deadline_of(who)
  if not deadlines[who] then
    deadlines[who] = tonumber(redis.call('ZSCORE', sessions, who) or 0)
  end
  return deadlines[who]
end

-- Most names in one command: all that Lua can pass on is 8,000.
local NAMES = 1000

-- A passed deadline becomes 0, and so stays passed if the clock is set back.
local function declare_dead(who)
  redis.call('ZADD', sessions, 'XX', 0, who)
  deadlines[who] = 0
end

-- Gives whoever lived at `last` a whole TTL from now; the others are dead. Returns
-- the longest of those TTLs. In one step: a thousand consumers take 1.5 ms.
local function begin_anew(last, ttl)
  local all = redis.call('ZRANGE', sessions, 0, -1)
  local died = redis.call('ZCOUNT', sessions, '-inf', number(last))
  local longest, deadline_by_ttl = ttl, {}
  for first = 1, #all, NAMES do
    local fields, scores = {}, {}
    for i = first, math.min(first + NAMES - 1, #all) do
      fields[#fields + 1] = 'ttl:' .. all[i]
    end
    local ttls = redis.call('HMGET', details, unpack(fields))
    for i = 1, #fields do
      local index, its, deadline = first + i - 1, ttls[i] or ttl, '0'
      if index > died then
        if not deadline_by_ttl[its] then
          longest = math.max(longest, tonumber(its))
          deadline_by_ttl[its] = number(now + tonumber(its))
        end
        deadline = deadline_by_ttl[its]
      end
      scores[2 * i - 1] = deadline
      scores[2 * i] = all[index]
    end
    redis.call('ZADD', sessions, unpack(scores))
  end
  return longest
end

-- After a restart (which may have lost the last second of writes) or a step of
-- the clock, deadlines say nothing about who is alive. Whoever lived when we last
-- looked gets a whole TTL to beat, and nobody else acquires or takes over until
-- then. Returns for how long that is still (ms), 0 in the usual case.
local function settle()
  local info = redis.pcall('INFO', 'server')
  -- Without the right to ask, restarts go unnoticed.
  local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or 'unknown'
  local known = redis.call('HMGET', server, 'run', 'last', 'calm')
  local last, calm = tonumber(known[2] or now), tonumber(known[3] or 0)
  -- Who closes or buries a session says no TTL: its own is meant.
  local ttl = ttl > 0 and ttl or tonumber(redis.call('HGET', details, 'ttl:' .. session) or 0)
  -- Nothing known of a server that the caller knows: it has lost everything.
  local restarted = known[1] ~= run and (known[1] or expected > 0)
  -- A long silence alone may be a night without consumers, and a late request
  -- alone a slow network. Live sessions have two thirds of a TTL left.
  local far = math.max(ttl / 2, 500)
  local jumped = expected > 0 and now - expected > far and now - last > far
  if restarted or jumped or last - now > far then
    calm = now + begin_anew(last, ttl)
  end
  redis.call('HSET', server, 'run', run, 'last', number(now), 'calm', number(calm))
  return math.max(calm - now, 0)
end
