-- Makes the stream and its group, and puts the lock scheme on record with it.
-- KEYS: LBS, lock scheme.  ARGV: group, the caller's scheme.
--
-- A group without a record was made by a consumer that keeps none: the wire
-- format's, whose locks are per stream.
local known = redis.call('GET', KEYS[2])
if known and known ~= ARGV[2] then
  return {'other', known}
end
if not known and ARGV[2] == 'session' then
  -- Looked at first: a refused consumer must not have made anything.
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  for _, group in ipairs(groups.err and {} or groups) do
    for i = 1, #group, 2 do
      if group[i] == 'name' and group[i + 1] == ARGV[1] then
        return {'wire'}
      end
    end
  end
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err then
  if string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then
    return made
  end
elseif not known then
  redis.call('SET', KEYS[2], ARGV[2])
end
return {'ok'}
