-- Frees a page of leases, each only if it is held with its token, and tells
-- those who were refused.
-- KEYS: refused streams, hints channel, then (stream key, wire key) each.
-- ARGV: session, then ('/<token>/<entry>/', stream, announce) each.
-- Returns a '1' for each that was released and a '0' for the others.
local refused, channel = KEYS[1], KEYS[2]
local session = ARGV[1]
local replies, freed = {}, {}
for i = 0, (#ARGV - 1) / 3 - 1 do
  local head, stream, announce = session .. ARGV[2 + 3 * i], ARGV[3 + 3 * i], ARGV[4 + 3 * i]
  local released = '0'
  for k = 3 + 2 * i, 4 + 2 * i do
    if starts_with(value_of(KEYS[k]), head) then
      redis.call('DEL', KEYS[k])
      released = '1'
    end
  end
  if released == '1' then
    local until_ms = redis.call('ZSCORE', refused, stream)
    if until_ms then
      redis.call('ZREM', refused, stream)
    end
    if announce == '1' or (until_ms and tonumber(until_ms) > now) then
      freed[#freed + 1] = #stream .. ':' .. stream .. ','
    end
  end
  replies[#replies + 1] = released
end
if #freed > 0 then
  -- pcall: a user without rights on channels must not fail for a mere hint.
  redis.pcall('PUBLISH', channel, 'F' .. table.concat(freed))
end
return table.concat(replies)
