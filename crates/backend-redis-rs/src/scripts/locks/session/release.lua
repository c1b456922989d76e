-- Frees a page of leases, each only if it is held with its token, and tells
-- those who were refused.
-- KEYS: …, refused streams, hints channel.
-- ARGV: …, a '1' for each lease that is announced and a '0' for the others, then
-- the streams, then '<session>/<token>/<entry>/' for each.
-- Returns a '1' for each that was released and a '0' for the others.
local refused, channel = KEYS[K + 1], KEYS[K + 2]
local announced = ARGV[A + 1]
local count = #announced
local STREAMS, HEADS = A + 1, A + 1 + count
local values = redis.call('HMGET', owners, unpack(ARGV, STREAMS + 1, STREAMS + count))
local released, off, freed = {}, {}, {}
for i = 1, count do
  if starts_with(values[i], ARGV[HEADS + i]) then
    local stream = ARGV[STREAMS + i]
    released[i] = '1'
    off[#off + 1] = stream
    if take_refused(refused, stream) or string.byte(announced, i) == 49 then
      freed[#freed + 1] = piece(stream)
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
  publish(channel, 'F' .. table.concat(freed))
end
return table.concat(released)
