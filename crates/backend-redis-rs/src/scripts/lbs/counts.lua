-- How much there is of a service. Nothing is looked at one by one.
-- KEYS: LBS, quarantine.
-- ARGV: the group.
-- Returns how many entries nobody has had (false: unknown), for how many ms the oldest of
-- them has waited (false: there is none), how many are pending, how many in quarantine.
local lbs, quarantine, group = KEYS[1], KEYS[2], ARGV[1]
-- Nothing comes after it, and Redis refuses to look there.
local GREATEST = '18446744073709551615-18446744073709551615'

local waiting, oldest, pending = 0, nil, 0
if redis.call('EXISTS', lbs) == 1 then
  local known = find_group(redis.call('XINFO', 'GROUPS', lbs), group)
  if known then
    pending, waiting = known['pending'], known['lag']
    local last = known['last-delivered-id']
    oldest = last ~= GREATEST and redis.call('XRANGE', lbs, '(' .. last, '+', 'COUNT', 1)[1]
  else
    -- pcall: only operators ask before there is a group, and their user may not.
    local length = redis.pcall('XLEN', lbs)
    waiting = type(length) == 'number' and length
    oldest = redis.call('XRANGE', lbs, '-', '+', 'COUNT', 1)[1]
  end
  -- The lag is an estimate. What contradicts the stream is worth nothing.
  if not oldest then
    waiting = 0
  elseif waiting and waiting < 1 then
    waiting = false
  end
end
local age = oldest and math.max(0, ms_at(redis.call('TIME')) - string.match(oldest[1], '^%d+'))
return {waiting or false, age or false, pending, redis.call('HLEN', quarantine)}
