-- Who holds each of a page of locks. Reading makes Redis expire a key at once.
-- KEYS: (stream key, wire key) each.
-- Returns for each: {'free'} or {'held', ms (-1: for ever), value}.
local replies = {}
for i = 1, #KEYS, 2 do
  local reply = {'free'}
  for k = i, i + 1 do
    local value = value_of(KEYS[k])
    if value then
      reply = {'held', remaining(KEYS[k]), value}
      break
    end
  end
  replies[#replies + 1] = reply
end
return replies
