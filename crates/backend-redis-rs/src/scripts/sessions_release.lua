-- Frees a page of leases, each only if it is held with its token, and tells
-- those who were refused.
-- KEYS: …, refused streams, hints channel.
-- ARGV: …, a '1' for each lease that is announced and a '0' for the others, then
-- the streams, then '<session>/<token>/<entry>/' for each.
-- Returns a '1' for each that was released and a '0' for the others.
local refused, channel = KEYS[6], KEYS[7]
local announced = ARGV[4]
local count = #announced
local values = redis.call('HMGET', owners, unpack(ARGV, 5, 4 + count))
local someone_waits = redis.call('EXISTS', refused) == 1
local released, off, freed = {}, {}, {}
for i = 1, count do
  if starts_with(values[i], ARGV[4 + count + i]) then
    local stream = ARGV[4 + i]
    released[i] = '1'
    off[#off + 1] = stream
    local until_ms = someone_waits and redis.call('ZSCORE', refused, stream)
    if until_ms then
      redis.call('ZREM', refused, stream)
    end
    if string.byte(announced, i) == 49 or (until_ms and tonumber(until_ms) > now) then
      freed[#freed + 1] = #stream .. ':' .. stream .. ','
    end
  else
    released[i] = '0'
  end
end
if #off > 0 then
  redis.call('HDEL', owners, unpack(off))
  redis.call('ZREM', leases_of(session), unpack(off))
  if redis.call('EXISTS', marks_of(session)) == 1 then
    redis.call('HDEL', marks_of(session), unpack(off))
  end
end
if #freed > 0 then
  -- pcall: a user without rights on channels must not fail for a mere hint.
  redis.pcall('PUBLISH', channel, 'F' .. table.concat(freed))
end
return table.concat(released)
