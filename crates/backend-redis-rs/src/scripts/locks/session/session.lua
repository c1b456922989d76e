-- Opens, closes and removes sessions.
-- KEYS: …, removed sessions (by when), hints channel, lock scheme.
-- ARGV: …, what, an argument. The argument is for open: the caller's scheme, close:
-- consumer, remove: nothing.
-- Returns {'ok' [, the server's clock (ms)]}, {'gone'}, {'other', scheme}, {'alive'} or
-- {'holds'}.
local removed, channel, scheme_key = KEYS[K + 1], KEYS[K + 2], KEYS[K + 3]
local what, argument = ARGV[A + 1], ARGV[A + 2]
check_restart()

local function remove(who)
  redis.call('ZREM', sessions, who)
  remember_removed(removed, who)
  drop_details(who)
  -- Of streams that were taken over there may be as many as it held.
  redis.call('UNLINK', marks_of(who))
end

local present = redis.call('ZSCORE', sessions, session)
if what == 'open' then
  local refusal = other_scheme(scheme_key, argument)
  if refusal then
    return refusal
  end
  -- A removed session stays refused: a late open must not revive it.
  if redis.call('ZSCORE', removed, session) or (present and deadline_of(session) <= now) then
    return {'gone'}
  end
  redis.call('ZADD', sessions, number(now + ttl), session)
  redis.call('HSET', details, 'ttl:' .. session, number(ttl))
  return {'ok', now}
end

if what == 'close' then
  if present then
    declare_dead(session)
  else
    -- Its open may come late.
    remove(session)
  end
  publish(channel, 'G' .. argument)
  return {'ok'}
end

-- remove
if deadline_of(session) > now then
  return {'alive'}
end
if redis.call('ZCARD', leases_of(session)) > 0 then
  return {'holds'}
end
if present then
  remove(session)
end
return {'ok'}
