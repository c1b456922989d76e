-- Ids of entries that are on the LBS, were delivered and are pending at nobody.
-- KEYS: LBS.  ARGV: group, after, most ids, how far to look in the pending list.
-- Returns them, and where to go on if this is not all.
--
-- Looks into the gaps of the pending list: where there is nothing no payload is read,
-- which XRANGE over all of it would do.
local lbs, group, after = KEYS[1], ARGV[1], ARGV[2]
local most, far = tonumber(ARGV[3]), tonumber(ARGV[4])
local found = {}

-- Nothing comes after it, and Redis refuses to look there.
local GREATEST = '18446744073709551615-18446744073709551615'

-- Whether all of the gap was seen.
local function look_between(from, to)
  if from == GREATEST then
    return true
  end
  local entries = redis.call('XRANGE', lbs, '(' .. from, to, 'COUNT', most - #found)
  for i = 1, #entries do
    found[#found + 1] = entries[i][1]
  end
  return #found < most
end

local pending = redis.call('XPENDING', lbs, group, '(' .. after, '+', far)
for i = 1, #pending do
  if not look_between(after, '(' .. pending[i][1]) then
    return {found, found[#found]}
  end
  after = pending[i][1]
end
if #pending == far then
  return {found, after}
end
local last = last_delivered(lbs, group)
if last and not look_between(after, last) then
  return {found, found[#found]}
end
return {found, false}
