-- How much there is of a service. Nothing is looked at one by one.
-- KEYS: LBS, quarantine, pause.
-- ARGV: the group.
-- Returns how many entries nobody has had (false: unknown), for how many ms the oldest of
-- them has waited (false: there is none), how many are pending, how many in quarantine, and
-- 1 if the service is paused.
local lbs, quarantine, pause, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
-- Nothing comes after it, and Redis refuses to look there.
local GREATEST = '18446744073709551615-18446744073709551615'

local waiting, oldest, pending = 0, nil, 0
local groups = redis.pcall('XINFO', 'GROUPS', lbs)
if groups.err and not string.find(groups.err, 'no such key', 1, true) then
  return groups
end
if not groups.err then
  local known = find_group(groups, group)
  -- pcall: the caller's user may not.
  local length = redis.pcall('XLEN', lbs)
  length = type(length) == 'number' and length
  if known then
    pending, waiting = known['pending'], known['lag']
    -- The lag is an estimate, which a server may get wrong for good: Redis 7.0 does when an
    -- entry is withdrawn right behind the last one delivered. It has to add up.
    if waiting and (not length or waiting + pending ~= length) then
      waiting = false
    end
    local last = known['last-delivered-id']
    oldest = last ~= GREATEST and redis.call('XRANGE', lbs, '(' .. last, '+', 'COUNT', 1)[1]
  else
    waiting = length
    oldest = redis.call('XRANGE', lbs, '-', '+', 'COUNT', 1)[1]
  end
  -- What contradicts the stream is worth nothing.
  if not oldest then
    waiting = 0
  elseif waiting and waiting < 1 then
    waiting = false
  end
end
local age = oldest and math.max(0, ms_at(redis.call('TIME')) - string.match(oldest[1], '^%d+'))
local quarantined = redis.call('HLEN', quarantine)
return {waiting or false, age or false, pending, quarantined, redis.call('EXISTS', pause)}
