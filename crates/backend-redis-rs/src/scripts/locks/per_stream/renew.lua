-- Extends a session and a page of its leases; answers with exceptions only.
-- KEYS: sessions, sweep turn, then (stream key, wire key) each.
-- ARGV: session, ttl (ms), whether to look around, turn length (ms, 0: none wanted),
--       then '/<token>/<entry>/' each.
local sessions, sweep = KEYS[1], KEYS[2]
local session, ttl, wants_around, turn_length = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local K, A = 2, 4
-- Also after the server lost its data: without its deadline a session cannot be
-- told from one that is dead and removed.
if not alive(sessions, session) then
  return {'gone'}
end
redis.call('ZADD', sessions, 'XX', number(now + tonumber(ttl)), session)

local lost = {}
local leases = #ARGV - A
if leases > 0 then
  local keys = {unpack(KEYS, K + 1)}
  local values = redis.call('MGET', unpack(keys))
  for i = 1, leases do
    local head = session .. ARGV[A + i]
    if starts_with(values[2 * i - 1], head) and starts_with(values[2 * i], head) then
      redis.call('PEXPIRE', keys[2 * i - 1], ttl)
      redis.call('PEXPIRE', keys[2 * i], ttl)
    else
      lost[#lost + 1] = i
    end
  end
end
if wants_around == '0' then
  return {'ok', lost}
end

local dead, next_deadline, members, turn = look_around(sessions, sweep, session, turn_length)
return {'ok', lost, dead, next_deadline, members, turn}
