-- What a beat tells of the others; lock.lua comes before it.
-- Returns the dead sessions (oldest first), ms until the next deadline of
-- another session (-1: none), the number of live sessions, and 1 if the turn to
-- sweep (`turn` ms long, '0': not wanted) is this session's.
local function look_around(sessions, sweep, session, turn)
  local dead = redis.call('ZRANGEBYSCORE', sessions, '-inf', number(now), 'LIMIT', 0, 16)
  local next_deadline = -1
  local coming = redis.call('ZRANGEBYSCORE', sessions, '(' .. number(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
  for i = 1, #coming, 2 do
    if coming[i] ~= session then
      next_deadline = coming[i + 1] - now
      break
    end
  end
  local members = redis.call('ZCOUNT', sessions, '(' .. number(now), '+inf')
  local granted = 0
  if turn ~= '0' and redis.call('SET', sweep, session, 'NX', 'PX', turn) then
    granted = 1
  end
  return dead, next_deadline, members, granted
end
