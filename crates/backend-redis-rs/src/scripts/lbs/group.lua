-- Shared by the scripts that tell what was delivered from what was not.

-- The last entry delivered to the group; nil without the right to ask.
local function last_delivered(lbs, group)
  local groups = redis.pcall('XINFO', 'GROUPS', lbs)
  for i = 1, groups.err and 0 or #groups do
    local known = {}
    for f = 1, #groups[i], 2 do
      known[groups[i][f]] = groups[i][f + 1]
    end
    if known['name'] == group then
      return known['last-delivered-id']
    end
  end
end
