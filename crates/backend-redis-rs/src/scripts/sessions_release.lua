-- Frees a page of leases, each only if it is held with its token, and tells
-- those who were refused.
-- KEYS: …, refused streams, hints channel.
-- ARGV: …, then (stream, '/<token>/<entry>/', announce) each.
local refused, channel = KEYS[6], KEYS[7]
local count = (#ARGV - 3) / 3
local streams = {}
for i = 1, count do
  streams[i] = ARGV[1 + 3 * i]
end
local values = redis.call('HMGET', owners, unpack(streams))
local someone_waits = redis.call('EXISTS', refused) == 1
local replies, off, gone, freed = {}, {}, {}, {}
for i = 1, count do
  local stream = streams[i]
  if starts_with(values[i], session .. ARGV[2 + 3 * i]) and not gone[stream] then
    replies[i] = 1
    gone[stream] = true
    off[#off + 1] = stream
    local until_ms = someone_waits and redis.call('ZSCORE', refused, stream)
    if until_ms then
      redis.call('ZREM', refused, stream)
    end
    if ARGV[3 + 3 * i] == '1' or (until_ms and tonumber(until_ms) > now) then
      freed[#freed + 1] = #stream .. ':' .. stream .. ','
    end
  else
    replies[i] = 0
  end
end
if #off > 0 then
  redis.call('HDEL', owners, unpack(off))
  redis.call('ZREM', leases_of(session), unpack(off))
  redis.call('HDEL', marks_of(session), unpack(off))
end
if #freed > 0 then
  -- pcall: a user without rights on channels must not fail for a mere hint.
  redis.pcall('PUBLISH', channel, 'F' .. table.concat(freed))
end
return replies
