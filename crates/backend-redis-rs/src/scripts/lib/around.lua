-- What a heartbeat tells of the others; locks.lua comes before it.
-- Returns the dead sessions (oldest first), ms until the next deadline of
-- another session (-1: none), the number of live sessions, and 1 if the turn to
-- sweep (`turn` ms long, '0': not wanted) is this session's.
-- Members that are no sessions are removed where they are met; `dead` tells of those.
local MOST_DEAD = 128

-- A turn that lasts longer than was asked for is none: the clock was set back, or the
-- key is somebody else's.
local function take_turn(sweep, session, turn)
  local value, left = value_of(sweep), remaining(sweep)
  local length = value and tonumber(string.match(value, '^(%d+):')) or tonumber(turn)
  if value and left >= 0 and left <= length then
    return 0
  end
  redis.call('SET', sweep, turn .. ':' .. session, 'PX', turn)
  return 1
end

local function look_around(sessions, sweep, session, turn)
  local dead = redis.call('ZRANGEBYSCORE', sessions, '-inf', number(now), 'LIMIT', 0, MOST_DEAD)
  for i = 1, #dead do
    if not is_session(dead[i]) then
      redis.call('ZREM', sessions, dead[i])
    end
  end
  local next_deadline = -1
  local coming = redis.call('ZRANGEBYSCORE', sessions, '(' .. number(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
  for i = 1, #coming, 2 do
    if not is_session(coming[i]) then
      redis.call('ZREM', sessions, coming[i])
      dead[#dead + 1] = coming[i]
    elseif coming[i] ~= session then
      next_deadline = coming[i + 1] - now
      break
    end
  end
  local members = redis.call('ZCOUNT', sessions, '(' .. number(now), '+inf')
  local granted = turn ~= '0' and take_turn(sweep, session, turn) or 0
  return dead, next_deadline, members, granted
end
