-- Puts a page of data streams, none of them twice, on record for a session and
-- mints their tokens.
-- KEYS: …, token counter, refused streams.
-- ARGV: …, then the streams, then an entry for each, an attempt for each, a floor
-- for each.
-- Returns for each: a token, {'held', ms, value} or {'not_yet', ms}.
local counter_key, refused = KEYS[K + 1], KEYS[K + 2]
local count = (#ARGV - A) / 4
local ENTRIES, ATTEMPTS, FLOORS = A + count, A + 2 * count, A + 3 * count
local grace_left = check_restart()
if deadline_of(session) <= now then
  return {'gone'}
end
local values = redis.call('HMGET', owners, unpack(ARGV, A + 1, A + count))
local latest = redis.call('HGET', details, 'attempt:' .. session) or ''
start_minting(counter_key)

local replies, taken, mine, moved, was_refused = {}, {}, {}, {}, false
local n = 0
for i = 1, count do
  local stream, entry, attempt = ARGV[A + i], ARGV[ENTRIES + i], ARGV[ATTEMPTS + i]
  local who, token, what, which = parse_owner(values[i])
  local own = who == session
  local lives = own or (who and deadline_of(who) > now)
  -- Fixed width, so that text orders as numbers.
  if attempt ~= latest and attempt > latest then latest = attempt end
  if own and what == entry and which == attempt then
    replies[i] = token
  elseif grace_left > 0 and not own then
    replies[i] = {'not_yet', grace_left}
  elseif lives and (not own or what ~= entry or attempt < which) then
    -- A lower attempt of ours was abandoned, and executes late: its caller knows
    -- the lease by the later one.
    local left = deadline_of(who) - now
    note_refused(refused, stream, left, ttl)
    was_refused = true
    replies[i] = {'held', left, values[i]}
  else
    if who and not own then
      -- The dead one cannot come back to what is another's now.
      if deadline_of(who) > 0 then declare_dead(who) end
      moved[who] = moved[who] or {}
      table.insert(moved[who], stream)
    end
    token = mint(ARGV[FLOORS + i])
    replies[i] = token
    taken[n + 1] = stream
    taken[n + 2] = lease_value(session, token, entry, attempt)
    -- As text: Redis would print a number with 17 digits.
    mine[n + 1] = '0'
    mine[n + 2] = stream
    n = n + 2
  end
end
redis.call('HSET', details, 'attempt:' .. session, latest)
if n > 0 then
  for who, list in pairs(moved) do
    redis.call('ZREM', leases_of(who), unpack(list))
    if not redis.call('ZSCORE', sessions, who) then
      -- The sessions have vanished, and nobody will remove it.
      drop_details(who)
    end
  end
  redis.call('HSET', owners, unpack(taken))
  redis.call('ZADD', leases_of(session), unpack(mine))
  end_minting(counter_key)
end
if was_refused then
  drop_refused(refused)
end
return {'ok', replies}
