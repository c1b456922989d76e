-- Makes the stream and its group, and puts the lock scheme on record with it.
-- KEYS: LBS, lock scheme.  ARGV: group, the caller's scheme.
--
-- A group without a record was made by a consumer that keeps none: the wire
-- format's, whose locks are per stream.
local known = redis.call('GET', KEYS[2])
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
