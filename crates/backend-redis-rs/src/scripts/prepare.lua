-- Makes the stream and its group, and puts the lock scheme on record with it.
-- KEYS: LBS, lock scheme, then what session leases alone have.
-- ARGV: group, the caller's scheme.
--
-- A group without a record was made by a consumer that keeps none: the wire
-- format's, whose locks are per stream. Unless the record has vanished: session
-- leases show by what else they have, and the record is made anew.
local known = redis.call('GET', KEYS[2])
if not known and redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) > 0 then
  known = 'session'
  redis.call('SET', KEYS[2], known)
end
if known and known ~= ARGV[2] then
  return {'other', known}
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err then
  if string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then
    return made
  end
  if not known and ARGV[2] == 'session' then
    return {'wire'}
  end
elseif not known then
  redis.call('SET', KEYS[2], ARGV[2])
end
return {'ok'}
