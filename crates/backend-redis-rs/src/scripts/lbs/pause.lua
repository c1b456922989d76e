-- Pauses the service, and tells everybody; a repeat tells again.
-- KEYS: pause, hints channel.  ARGV: reason.
-- Returns 1 if it was not paused before.
local began = 0
local there = redis.pcall('GET', KEYS[1])
if type(there) == 'table' then
  local is_foreign = string.find(there.err, 'WRONGTYPE', 1, true)
  return is_foreign and redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is no string') or there
end
if not there then
  redis.call('SET', KEYS[1], number(ms_at(redis.call('TIME'))) .. ':' .. ARGV[1])
  began = 1
end
publish(KEYS[2], 'P')
return began
