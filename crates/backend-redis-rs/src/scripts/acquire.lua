-- Locks a page of data streams and mints their tokens.
-- KEYS: sessions, token counter, refused streams, then (stream key, wire key) each.
-- ARGV: session, ttl (ms), then (entry, attempt, floor, stream) each.
-- Returns for each: a token, or {'held', ms (-1: for ever), value}.
local sessions, counter_key, refused = KEYS[1], KEYS[2], KEYS[3]
local session, ttl = ARGV[1], ARGV[2]
if not alive(sessions, session) then
  return {'gone'}
end

start_minting(counter_key)
local replies, was_refused = {}, false
for i = 0, (#ARGV - 2) / 4 - 1 do
  local stream_key, wire_key = KEYS[4 + 2 * i], KEYS[5 + 2 * i]
  local entry, attempt, floor, stream = ARGV[3 + 4 * i], ARGV[4 + 4 * i], ARGV[5 + 4 * i], ARGV[6 + 4 * i]
  local ours, wire = value_of(stream_key), value_of(wire_key)
  local held, held_key, repeated
  if ours then
    local who, token, what, which = string.match(ours, '^(.*)/(%d+)/(%d+%-%d+)/(%x+)$')
    -- A lower attempt of ours was abandoned, and executes late: its caller knows
    -- the lease by the later one. Fixed width, so that text orders as numbers.
    if who ~= session or what ~= entry or attempt < which then
      held, held_key = ours, stream_key
    elseif which == attempt and wire == ours and is_token(token) then
      repeated = token
    end
  end
  -- A wire key of this session without its stream key is the rest of a lease that was lost.
  if wire and not held and not repeated and not starts_with(wire, session .. '/') then
    held, held_key = wire, wire_key
  end
  if held then
    local left = remaining(held_key)
    -- Whoever releases it tells; kept for as long as the refused is sure to ask again.
    redis.call('ZADD', refused, number(now + 2 * math.max(left, tonumber(ttl))), stream)
    was_refused = true
    replies[#replies + 1] = {'held', left, held}
  elseif repeated then
    redis.call('PEXPIRE', stream_key, ttl)
    redis.call('PEXPIRE', wire_key, ttl)
    replies[#replies + 1] = repeated
  else
    local token = mint(floor)
    local value = session .. '/' .. token .. '/' .. entry .. '/' .. attempt
    redis.call('SET', stream_key, value, 'PX', ttl)
    redis.call('SET', wire_key, value, 'PX', ttl)
    replies[#replies + 1] = token
  end
end
end_minting(counter_key)
if was_refused then
  forget_refused(refused)
end
return {'ok', replies}
