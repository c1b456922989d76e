-- Locks a page of data streams and mints their tokens.
-- KEYS: sessions, token counter, refused streams, then (stream key, wire key) each.
-- ARGV: session, ttl (ms), then (entry, attempt, floor, stream) each.
-- Returns for each: a token, or {'held', ms (-1: for ever), value}.
local sessions, counter_key, refused = KEYS[1], KEYS[2], KEYS[3]
local session, ttl = ARGV[1], ARGV[2]
local K, A = 3, 2
if not alive(sessions, session) then
  return {'gone'}
end

start_minting(counter_key)
local replies, was_refused = {}, false
for i = 1, (#ARGV - A) / 4 do
  local k, a = K + 2 * i - 2, A + 4 * i - 4
  local stream_key, wire_key = KEYS[k + 1], KEYS[k + 2]
  local entry, attempt, floor, stream = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local ours, wire = value_of(stream_key), value_of(wire_key)
  local held, held_key, repeated
  if ours then
    local who, token, what, which = parse_value(ours)
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
    note_refused(refused, stream, left, tonumber(ttl))
    was_refused = true
    replies[i] = {'held', left, held}
  elseif repeated then
    redis.call('PEXPIRE', stream_key, ttl)
    redis.call('PEXPIRE', wire_key, ttl)
    replies[i] = repeated
  else
    local token = mint(floor)
    local value = lease_value(session, token, entry, attempt)
    redis.call('SET', stream_key, value, 'PX', ttl)
    redis.call('SET', wire_key, value, 'PX', ttl)
    replies[i] = token
  end
end
end_minting(counter_key)
if was_refused then
  drop_refused(refused)
end
return {'ok', replies}
