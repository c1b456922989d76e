-- A part of the live sessions, each with the time it has still. Whoever lives while
-- all parts are read is in one of them, perhaps in two.
-- KEYS: sessions.  ARGV: where to go on, '0' at first.
-- Returns where to go on, '0' if this was the last part, and the sessions. What is
-- none is among them for the last time.
local sessions, cursor = KEYS[1], ARGV[1]
local page = redis.call('ZSCAN', sessions, cursor, 'COUNT', 250)
local rows = page[2]
local replies = {}
for i = 1, #rows, 2 do
  local left = tonumber(rows[i + 1]) - now
  if not is_session(rows[i]) then
    redis.call('ZREM', sessions, rows[i])
    replies[#replies + 1] = {rows[i], 0}
  elseif left > 0 then
    replies[#replies + 1] = {rows[i], left}
  end
end
return {page[1], replies}
