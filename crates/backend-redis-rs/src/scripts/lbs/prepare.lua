-- Makes the stream and its group, and puts the lock scheme on record with it.
-- KEYS: LBS, lock scheme, then what session leases alone have.
-- ARGV: group, the caller's scheme.
-- Returns {'ok'}, {'other', scheme} or {'wire'}.
--
-- A group without a record was made by a consumer that keeps none: the wire
-- format's, whose locks are per stream. Unless the record has vanished: session
-- leases show by what else they have, and the record is made anew.
local lbs, scheme_key = KEYS[1], KEYS[2]
local group, scheme = ARGV[1], ARGV[2]
local K = 2
local known = redis.call('GET', scheme_key)
if not known and redis.call('EXISTS', unpack(KEYS, K + 1)) > 0 then
  known = 'session'
  redis.call('SET', scheme_key, known)
end
if known and known ~= scheme then
  return {'other', known}
end
local made = redis.pcall('XGROUP', 'CREATE', lbs, group, '0', 'MKSTREAM')
if made.err then
  if string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then
    return made
  end
  if not known and scheme == 'session' then
    return {'wire'}
  end
elseif not known then
  redis.call('SET', scheme_key, scheme)
end
return {'ok'}
