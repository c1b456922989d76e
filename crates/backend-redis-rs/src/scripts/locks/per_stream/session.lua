-- Everything that changes the set of sessions apart from a heartbeat.
-- KEYS: sessions (by deadline), removed ones (by when), hints channel, lock scheme.
-- ARGV: what, session, an argument, the caller's scheme. The argument is for open: ttl
-- (ms), close: consumer, take_over: the dead one, remove: nothing.
-- Returns {'ok'}, {'gone'}, {'alive' [, ms]} or {'other', scheme}.
local sessions, removed, channel, scheme_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local what, session, argument, scheme = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if what == 'open' then
  local refusal = other_scheme(scheme_key, scheme)
  if refusal then
    return refusal
  end
  -- A removed session stays refused: a late open must not revive it.
  if redis.call('ZSCORE', removed, session) then
    return {'gone'}
  end
  if redis.call('ZSCORE', sessions, session) and not alive(sessions, session) then
    return {'gone'}
  end
  redis.call('ZADD', sessions, number(now + tonumber(argument)), session)
  return {'ok'}
end

if what == 'close' then
  -- Also where it is not known: its open may come late.
  if not redis.call('ZSCORE', removed, session) then
    local deadline = redis.call('ZSCORE', sessions, session)
    if not deadline or tonumber(deadline) > now then
      redis.call('ZADD', sessions, number(now), session)
    end
    publish(channel, 'G' .. argument)
  end
  return {'ok'}
end

if what == 'take_over' then
  if not alive(sessions, session) then
    return {'gone'}
  end
  if alive(sessions, argument) then
    return {'alive', redis.call('ZSCORE', sessions, argument) - now}
  end
  -- A passed deadline is final by itself: no open or heartbeat goes past it.
  return {'ok'}
end

-- remove
if alive(sessions, session) then
  return {'alive'}
end
if redis.call('ZREM', sessions, session) == 1 then
  remember_removed(removed, session)
end
return {'ok'}
