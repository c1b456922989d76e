-- Ends the pause of a service, and tells everybody; a repeat tells again.
-- KEYS: pause, hints channel.
-- Returns 1 if it was paused before.
local ended = redis.call('UNLINK', KEYS[1])
publish(KEYS[2], 'P')
return ended
