-- Shared by the scripts that tell what was delivered from what was not.

-- What a reply of XINFO GROUPS says of the group; nil if it is not there.
local function find_group(groups, group)
  for i = 1, #groups do
    local known = {}
    for f = 1, #groups[i], 2 do
      known[groups[i][f]] = groups[i][f + 1]
    end
    if known['name'] == group then
      return known
    end
  end
end

-- The last entry delivered to the group; nil without the right to ask.
local function last_delivered(lbs, group)
  local groups = redis.pcall('XINFO', 'GROUPS', lbs)
  local known = not groups.err and find_group(groups, group)
  return known and known['last-delivered-id'] or nil
end
