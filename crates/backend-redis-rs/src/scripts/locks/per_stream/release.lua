-- Frees a page of leases, each only if it is held with its token, and tells
-- those who were refused.
-- KEYS: refused streams, hints channel, then (stream key, wire key) each.
-- ARGV: session, then ('/<token>/<entry>/', stream, announce) each.
-- Returns a '1' for each that was released and a '0' for the others.
local refused, channel = KEYS[1], KEYS[2]
local session = ARGV[1]
local K, A = 2, 1
local replies, freed = {}, {}
for i = 1, (#ARGV - A) / 3 do
  local k, a = K + 2 * i - 2, A + 3 * i - 3
  local head, stream, announce = session .. ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local released = '0'
  for k = k + 1, k + 2 do
    if starts_with(value_of(KEYS[k]), head) then
      redis.call('DEL', KEYS[k])
      released = '1'
    end
  end
  if released == '1' and (take_refused(refused, stream) or announce == '1') then
    freed[#freed + 1] = piece(stream)
  end
  replies[i] = released
end
if #freed > 0 then
  publish(channel, 'F' .. table.concat(freed))
end
return table.concat(replies)
