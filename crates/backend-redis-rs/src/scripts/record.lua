-- Shared head of the scripts that work on LBS entries.
--
-- The fencing record of an entry is its token as 20 digits, followed by
-- ":<handed back>:<failures>" unless both are 0, as they mostly are: putting texts
-- together is dear. Tokens are compared as text, never as Lua numbers: those are
-- doubles and would call two tokens above 2^53 equal.
local NO_TOKEN = string.rep('0', 20)

local function parse_record(value)
  if value then
    local token, handed, failures = string.match(value, '^(%d+):?([01]?):?(%d*)$')
    if token and #token == 20 then
      return token, handed == '1', tonumber(failures) or 0
    end
  end
  return NO_TOKEN, false, 0
end

local function format_record(token, handed, failures)
  if failures == 0 and not handed then
    return token
  end
  return token .. (handed and ':1:' or ':0:') .. string.format('%d', failures)
end

-- The raw fields of an entry, nil if it is not on the LBS (any more).
local function fields_of(lbs, id)
  local found = redis.call('XRANGE', lbs, id, id)
  return found[1] and found[1][2]
end

-- The consumer that has the entry pending, nil if none has.
local function pending_at(lbs, group, id)
  local rows = redis.call('XPENDING', lbs, group, id, id, 1)
  return rows[1] and rows[1][2]
end

-- The rows of the pending list for these entries, by entry. `low` and `high` are the
-- least and the greatest: a page is mostly a run of that list, and one look costs
-- less than one each. What lies beyond the limit is looked up singly.
local function pending_rows(lbs, group, ids, low, high)
  local limit = 2 * #ids
  local found = redis.call('XPENDING', lbs, group, low, high, limit)
  local rows = {}
  for i = 1, #found do
    rows[found[i][1]] = found[i]
  end
  for i = 1, #found == limit and #ids or 0 do
    rows[ids[i]] = rows[ids[i]] or redis.call('XPENDING', lbs, group, ids[i], ids[i], 1)[1]
  end
  return rows
end

-- What somebody else may have left of an entry that is off the LBS.
local function clear(lbs, group, tokens, id)
  redis.call('XACK', lbs, group, id)
  redis.call('HDEL', tokens, id)
end

local function starts_with(text, head)
  return text and string.find(text, head, 1, true) == 1
end
