-- Extends a session, and with it everything it holds; answers with exceptions only.
-- KEYS: …, sweep turn, fencing records, lock scheme.
-- ARGV: …, turn length (ms, 0: none wanted).
-- Returns {'gone'}, or {'ok', the server's clock (ms), how many leases are on record, those
-- that are to be released (stream, entry, token), the generation, and what around.lua tells}.
local sweep, records_key, scheme_key = KEYS[K + 1], KEYS[K + 2], KEYS[K + 3]
local turn_length = ARGV[A + 1]
local _, generation, doubted = check_restart()
if deadline_of(session) <= now then
  return {'gone'}
end
redis.call('ZADD', sessions, 'XX', number(now + ttl), session)
-- Whatever of it has vanished.
redis.call('HSETNX', details, 'ttl:' .. session, number(ttl))
local _, records = has_vanished(records_key, redis.call('HGET', server, 'records'), 'records')

-- A mark of a lease that is not held any more goes. Not all of many at once: the
-- others come with later heartbeats.
local marked = {}
local marks = marks_of(session)
if redis.call('EXISTS', marks) == 1 then
  local cursor, pages = '0', 0
  repeat
    local page = redis.call('HSCAN', marks, cursor, 'COUNT', 100)
    cursor, pages = page[1], pages + 1
    for i = 1, #page[2], 2 do
      local stream, token = page[2][i], page[2][i + 1]
      local who, held, entry = parse_owner(redis.call('HGET', owners, stream))
      if who == session and held == token then
        marked[#marked + 1] = {stream, entry, token}
      else
        redis.call('HDEL', marks, stream)
      end
    end
  until cursor == '0' or #marked > 0 or pages == 4
end
local on_record = redis.call('ZCARD', leases_of(session))
local dead, next_deadline, members, turn = look_around(sessions, sweep, session, turn_length)
if turn == 1 then
  redis.call('SET', scheme_key, 'session', 'NX')
end
-- Owners claim again what they hold when the generation is another one, which makes
-- the fencing records anew.
generation = generation + tonumber(records)
return {'ok', now, on_record, marked, generation, dead, next_deadline, members, turn, doubted}
