-- Everything that changes the set of sessions apart from a beat.
-- KEYS: sessions (by deadline), buried ones (by time of burial), hints channel, lock scheme.
-- ARGV: what, session, then open: ttl (ms), close: consumer, take_over: the dead one; then the caller's scheme.
local sessions, buried, channel = KEYS[1], KEYS[2], KEYS[3]
local what, session = ARGV[1], ARGV[2]

if what == 'open' then
  local scheme = redis.call('GET', KEYS[4])
  if scheme and scheme ~= ARGV[4] then
    return {'other', scheme}
  end
  -- A buried session stays refused: a late open must not revive it.
  if redis.call('ZSCORE', buried, session) then
    return {'gone'}
  end
  if redis.call('ZSCORE', sessions, session) and not alive(sessions, session) then
    return {'gone'}
  end
  redis.call('ZADD', sessions, number(now + tonumber(ARGV[3])), session)
  return {'ok'}
end

if what == 'close' then
  -- Also where it is not known: its open may come late.
  if not redis.call('ZSCORE', buried, session) then
    local deadline = redis.call('ZSCORE', sessions, session)
    if not deadline or tonumber(deadline) > now then
      redis.call('ZADD', sessions, number(now), session)
    end
    redis.pcall('PUBLISH', channel, 'G' .. ARGV[3])
  end
  return {'ok'}
end

if what == 'take_over' then
  if not alive(sessions, session) then
    return {'gone'}
  end
  if alive(sessions, ARGV[3]) then
    return {'alive', redis.call('ZSCORE', sessions, ARGV[3]) - now}
  end
  -- A passed deadline is final by itself: no open or beat goes past it.
  return {'ok'}
end

-- bury
if alive(sessions, session) then
  return {'alive'}
end
if redis.call('ZREM', sessions, session) == 1 then
  redis.call('ZADD', buried, number(now), session)
  -- A request that is an hour late is not to be expected any more.
  redis.call('ZREMRANGEBYSCORE', buried, '-inf', number(now - 3600000))
  redis.call('PEXPIRE', buried, 3600000)
end
return {'ok'}
