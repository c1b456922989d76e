-- Shared head of the scripts of session leases; locks.lua comes before it.
--
-- KEYS of every one: sessions (by deadline), owners (data stream → value), what
-- is known of the server, details of the sessions, and the beginning of the keys
-- with the data streams of one session. That one is no key itself; the session's
-- name is added here, behind the same hash tag. A script's own keys begin at K + 1.
-- ARGV of every one: session, ttl (ms), what the server's clock should show by
-- the caller's (ms, 0: not known). A script's own arguments begin at A + 1.
--
-- Among the owners, and among the fencing records, stands a mark: a field that no data
-- stream and no entry has. Its value is also with what is known of the server. Should
-- either key vanish alone (evicted, deleted), the mark is missing, however much of it
-- others have put there again.
--
-- An owner's value is as a lock's: "<session>/<token>/<entry>/<attempt>". It is
-- what decides; the data streams of a session are kept beside it, in one sorted
-- set by name, to be counted, listed and taken over.
local sessions, owners, server, details, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local session, ttl, expected = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local K, A = 5, 3

local function leases_of(who)
  return leases .. who
end

-- Data stream → token of the lease that is to be released.
local function marks_of(who)
  return leases .. who .. ':marks'
end

local function parse_owner(value)
  if value then
    local who, token, entry, attempt = parse_value(value)
    if who and is_token(token) then
      return who, token, entry, attempt
    end
  end
end

-- The token, entry and attempt of a value, if it is one of this session's. Faster
-- than looking for the owner's end.
local function parse_owned(value, who)
  if starts_with(value, who .. '/') then
    local token, entry, attempt = string.match(value, '^(%d+)/(%d+%-%d+)/(%x+)$', #who + 2)
    if token and is_token(token) then
      return token, entry, attempt
    end
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

-- The longest TTL there is.
local LONGEST_TTL = 3600000

-- A number of what is known of the server and its sessions, nil if it is none that we
-- could have written: it must not stop everybody, nor for ever.
local function known_number(text, most)
  local number = text and #text < 18 and string.match(text, '^%d+$') and tonumber(text)
  return number and number <= most and number or nil
end

local MARK = ''

-- Whether `key` has lost what was in it since it was last looked at, with the mark that
-- it had then. Marks it if it has none; whoever writes to the owners looks before.
local function has_vanished(key, known, field)
  local mark = redis.call('HGET', key, MARK)
  if mark and not known_number(mark, 1e17) then
    mark = nil
  end
  if mark and mark == known then
    return false, mark
  end
  if not mark then
    mark = number(time[1] * 1000000 + time[2])
    redis.call('HSET', key, MARK, mark)
  end
  redis.call('HSET', server, field, mark)
  return known and true, mark
end

-- What is kept of a session beside its deadline and its leases.
local function drop_details(who)
  redis.call('HDEL', details, 'ttl:' .. who, 'attempt:' .. who)
end

-- A passed deadline becomes 0, and so stays passed if the clock is set back.
local function declare_dead(who)
  redis.call('ZADD', sessions, 'XX', 0, who)
  deadlines[who] = 0
end

-- Gives whoever lived at `last` a whole TTL from now; the others are dead. Returns
-- the longest of those TTLs. In one step: a thousand consumers take 1.5 ms.
-- `vanished`: nothing is on record of any of them.
local function begin_anew(last, ttl, vanished)
  local all = redis.call('ZRANGE', sessions, 0, -1)
  local died = redis.call('ZCOUNT', sessions, '-inf', number(last))
  local longest, deadline_by_ttl = ttl, {}
  for first = 1, #all, NAMES do
    local fields, scores, lists = {}, {}, {}
    for i = first, math.min(first + NAMES - 1, #all) do
      fields[#fields + 1] = 'ttl:' .. all[i]
      lists[#lists + 1] = leases_of(all[i])
    end
    if vanished then
      redis.call('UNLINK', unpack(lists))
    end
    local ttls = redis.call('HMGET', details, unpack(fields))
    for i = 1, #fields do
      local index, its, deadline = first + i - 1, known_number(ttls[i], LONGEST_TTL) or ttl, '0'
      if index > died then
        if not deadline_by_ttl[its] then
          longest = math.max(longest, its)
          deadline_by_ttl[its] = number(now + its)
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

-- How long a restart holds back what nobody has on record, at most: whoever has
-- acquired something believes no longer in it than that before a later heartbeat
-- has shown that it was not lost (see `fresh.rs`). So of a session with a longer TTL
-- only what is on record for it waits for it.
local LONGEST_GRACE = 10000

-- Each restart may have lost what was written last. So each holds back anew, also if one
-- follows the other before the grace is over: a server that crashes as soon as it is up, a
-- supervisor that tries five times in ten seconds. Two things are no restart's: a run id
-- that comes back, and a sixth change in such a row. INFO is answered by several processes
-- then, and the run id says nothing, until that has been over for a minute. To believe it
-- would be to hold everybody back for ever. Returns whether the server was restarted, and
-- until when the run id says nothing.
local SEVERAL_FOR = 60000
local MOST_IN_A_ROW = 5
local function is_another(run, known, several, grace_until)
  if not run then
    return false, several
  end
  if several > now then
    if redis.call('HGET', server, 'seen') ~= run then
      several = now + SEVERAL_FOR
      redis.call('HSET', server, 'several', number(several), 'seen', run)
    end
    return false, several
  end
  if run == known then
    return false, several
  end
  local earlier = grace_until > now and redis.call('HGET', server, 'earlier') or known or ''
  local _, changes = string.gsub(earlier, '%x+', '')
  if changes > MOST_IN_A_ROW or string.find(earlier .. ' ', run .. ' ', 1, true) then
    -- It counts once more: it may be the former server's, which is back, or a restart.
    several = now + SEVERAL_FOR
    redis.call('HSET', server, 'several', number(several), 'seen', run)
  end
  redis.call('HSET', server, 'earlier', string.sub(earlier, -400) .. ' ' .. run)
  return known and true, several
end

-- After a restart (which may have lost the last second of writes) or a step of
-- the clock, deadlines say nothing about who is alive. Whoever lived when we last
-- looked gets a whole TTL for a heartbeat, and nobody else acquires or takes over until
-- then, or for the longest grace. Returns for how long that is still (ms), 0 in the
-- usual case; the number of the record's generation: another after each restart
-- and each leap of the clock, and when the owners have vanished (it is no number that
-- grows: that could be lost, too, and come again); and a run id that is not believed, or ''.
local function check_restart()
  local info = redis.pcall('INFO', 'server')
  -- Without the right to ask, restarts go unnoticed; those who may ask see them.
  local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
  -- On the wire `grace_until` is the field 'calm': consumers of earlier versions read it.
  local known = redis.call('HMGET', server, 'run', 'last', 'calm', 'several', 'owners')
  local looked = known_number(known[2], 1e14)
  local last, grace_until = looked or now, known_number(known[3], now + LONGEST_TTL) or 0
  -- Who closes or removes a session says no TTL: its own is meant.
  local ttl = ttl > 0 and ttl or known_number(redis.call('HGET', details, 'ttl:' .. session), LONGEST_TTL) or 0
  local several = known_number(known[4], now + SEVERAL_FOR) or 0
  -- Nothing known of a server that the caller knows: it has lost everything.
  local is_new
  is_new, several = is_another(run, known[1], several, grace_until)
  local restarted = is_new or (not looked and expected > 0)
  -- A long silence alone may be a night without consumers, and a late request
  -- alone a slow network. Live sessions have two thirds of a TTL left.
  local far = math.max(ttl / 2, 500)
  local jumped = (expected > 0 and now - expected > far and now - last > far) or last - now > far
  local vanished = has_vanished(owners, known[5], 'owners')
  if (jumped or vanished) and not is_new and grace_until <= now then
    -- The grace that begins now is of no restart, and no row goes on in it.
    redis.call('HDEL', server, 'earlier')
  end
  if restarted or jumped then
    grace_until = now + math.min(begin_anew(last, ttl), LONGEST_GRACE)
  elseif vanished then
    -- Nothing is on record of anybody, so it is not to be believed that the rest is.
    grace_until = now + begin_anew(last, ttl, true)
  end
  redis.call('HSET', server, 'last', number(now), 'calm', number(grace_until))
  local believed = known[1] or ''
  if run and run ~= known[1] and (is_new or several <= now) then
    redis.call('HSET', server, 'run', run)
    believed = run
  end
  return math.max(grace_until - now, 0), (tonumber(string.sub(believed, 1, 12), 16) or 0) + grace_until,
    several > now and run or ''
end
