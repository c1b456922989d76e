-- Puts another lock scheme on record, unless somebody lives who goes by the old one.
-- KEYS: sessions, lock scheme, owners, details, the beginning of the keys with the
-- data streams of one session, what is known of the server.  ARGV: the new scheme.
-- Returns {'ok'} or {'busy', how many live}.
local sessions, scheme_key, owners, details = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local leases, server = KEYS[5], KEYS[6]
local scheme = ARGV[1]
local living = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', sessions, '(' .. number(now), '+inf')) do
  living = living + (is_session(member) and 1 or 0)
end
if living > 0 then
  return {'busy', living}
end
-- What the dead have left: with the other locks nobody would clear it away. Their
-- pending entries stay, and are found by looking at what is pending.
local dead = redis.call('ZRANGE', sessions, 0, -1)
for first = 1, #dead, 1000 do
  local keys = {}
  for i = first, math.min(first + 999, #dead) do
    keys[#keys + 1] = leases .. dead[i]
    keys[#keys + 1] = leases .. dead[i] .. ':marks'
  end
  redis.call('UNLINK', unpack(keys))
end
redis.call('UNLINK', sessions, owners, details, server)
redis.call('SET', scheme_key, scheme)
return {'ok'}
