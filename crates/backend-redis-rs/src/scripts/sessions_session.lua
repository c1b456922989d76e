-- Opens, closes and buries sessions.
-- KEYS: …, buried sessions (by time of burial), hints channel, lock scheme.
-- ARGV: …, what, then open: the caller's scheme; close: consumer.
local buried, channel = KEYS[6], KEYS[7]
local what = ARGV[4]
settle()

-- A request that is an hour late is not to be expected any more.
local function bury(who)
  redis.call('ZREM', sessions, who)
  redis.call('ZADD', buried, number(now), who)
  redis.call('ZREMRANGEBYSCORE', buried, '-inf', number(now - 3600000))
  redis.call('PEXPIRE', buried, 3600000)
  redis.call('HDEL', details, 'ttl:' .. who, 'attempt:' .. who)
  -- Of streams that were taken over there may be as many as it held.
  redis.call('UNLINK', marks_of(who))
end

local present = redis.call('ZSCORE', sessions, session)
if what == 'open' then
  local scheme = redis.call('GET', KEYS[8])
  if scheme and scheme ~= ARGV[5] then
    return {'other', scheme}
  end
  -- A buried session stays refused: a late open must not revive it.
  if redis.call('ZSCORE', buried, session) or (present and deadline_of(session) <= now) then
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
    bury(session)
  end
  redis.pcall('PUBLISH', channel, 'G' .. ARGV[5])
  return {'ok'}
end

-- bury
if deadline_of(session) > now then
  return {'alive'}
end
if redis.call('ZCARD', leases_of(session)) > 0 then
  return {'holds'}
end
if present then
  bury(session)
end
return {'ok'}
