-- Pauses the service, and tells everybody; a repeat tells again.
-- KEYS: pause, hints channel.  ARGV: reason.
-- Returns 1 if it was not paused before.
local began = 0
if not redis.call('GET', KEYS[1]) then
  redis.call('SET', KEYS[1], number(ms_at(redis.call('TIME'))) .. ':' .. ARGV[1])
  began = 1
end
publish(KEYS[2], 'P')
return began
