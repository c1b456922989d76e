-- Moves a page of a dead session's leases to this session, with new tokens.
-- KEYS: …, token counter.  ARGV: …, the dead one, most leases.
-- Returns {'gone'}, {'alive', ms}, {'not_yet', ms}, or {'ok', (stream, entry, token) each,
-- how many the dead one has still}.
local counter_key = KEYS[K + 1]
local dead, most = ARGV[A + 1], tonumber(ARGV[A + 2])
local grace_left = check_restart()
if deadline_of(session) <= now then
  return {'gone'}
end
if deadline_of(dead) > now then
  return {'alive', deadline_of(dead) - now}
end
if grace_left > 0 then
  return {'not_yet', grace_left}
end
if deadline_of(dead) > 0 then
  declare_dead(dead)
end
local taken_over = {}
local streams = most > 0 and redis.call('ZRANGE', leases_of(dead), 0, most - 1) or {}
if #streams > 0 then
  local values = redis.call('HMGET', owners, unpack(streams))
  -- With the attempt of this session's latest acquire, so that an earlier one
  -- that executes late cannot replace the lease.
  local attempt = redis.call('HGET', details, 'attempt:' .. session)
  if not attempt or not string.match(attempt, '^%x+$') or #attempt ~= 16 then
    attempt = '0000000000000000'
  end
  local taken, mine = {}, {}
  start_minting(counter_key)
  for i, stream in ipairs(streams) do
    local had, entry = parse_owned(values[i], dead)
    if had then
      local token = mint(had)
      taken[#taken + 1] = stream
      taken[#taken + 1] = lease_value(session, token, entry, attempt)
      mine[#mine + 1] = '0'
      mine[#mine + 1] = stream
      taken_over[#taken_over + 1] = {stream, entry, token}
    end
  end
  end_minting(counter_key)
  redis.call('ZREM', leases_of(dead), unpack(streams))
  if #taken > 0 then
    redis.call('HSET', owners, unpack(taken))
    redis.call('ZADD', leases_of(session), unpack(mine))
  end
end
return {'ok', taken_over, redis.call('ZCARD', leases_of(dead))}
