-- Shared head of the scripts that work on LBS entries; base.lua comes before it.
--
-- KEYS of every one: LBS, fencing records. A script's own keys begin at K + 1.
-- ARGV of every one: group. A script's own arguments begin at A + 1.
--
-- The fencing record of an entry is its token as 20 digits, followed by
-- ":<handed back>:<failures>" unless both are 0, as they mostly are: putting texts
-- together is dear. Behind that come ":" and what is kept of the last failures, if
-- there are any. Tokens are compared as text, never as Lua numbers: those are
-- doubles and would call two tokens above 2^53 equal.
local lbs, tokens, group = KEYS[1], KEYS[2], ARGV[1]
local K, A = 2, 1

local NO_TOKEN = string.rep('0', 20)
-- Of so many failures the reasons are kept.
local KEPT = 5

local function format_record(token, handed, failures, kept)
  if failures == 0 then
    return handed and token .. ':1:0' or token
  end
  return token .. (handed and ':1:' or ':0:') .. string.format('%d', failures) .. ':' .. kept
end

-- Entries whose records could not be read.
local unreadable = {}

-- Token, whether it was handed back, how many failures, and what is kept of them.
--
-- Somebody else has written what cannot be read, and whose the entry was is not known
-- any more. No earlier owner may get in for that: all that has a token by now is
-- refused, as if the entry had been handed back by a later one. Whoever acquires from
-- now on has a greater token: the server's time in µs is what tokens are minted from,
-- and who is told of a greater one acquires above it.
local function parse_record(value, id)
  if not value then
    return NO_TOKEN, false, 0, ''
  end
  if is_token(value) and not string.find(value, '%D') then
    return value, false, 0, ''
  end
  local token, handed, failures, kept = string.match(value, '^(%d+):([01]):(%d+):?(.*)$')
  if token and is_token(token) and #failures < 10 then
    return token, handed == '1', tonumber(failures), kept
  end
  token = token_at(redis.call('TIME'))
  -- pcall: with the server's memory full it stays as it is, which refuses as much.
  redis.pcall('HSET', tokens, id, format_record(token, true, 0))
  unreadable[id] = true
  return token, true, 0, ''
end

-- The answer to whoever has too low a token; with the entry if that is to be warned of.
local function refusal(word, seen, id)
  return {word, seen, unreadable[id] and id or nil}
end

-- What is kept of failures, oldest first. Each is a letter, 'd' for a death and 'f' for
-- what an owner said itself, the token that failed, the one by which that was counted,
-- and the reason.
local function split_kept(kept)
  local list = texts_in(kept) or {}
  for i = 1, #list do
    if #list[i] < 41 or #list[i] > 99999 then
      return {}
    end
  end
  return list
end

local function join_kept(list)
  local pieces = {}
  for i = math.max(1, #list - KEPT + 1), #list do
    pieces[#pieces + 1] = piece(list[i])
  end
  return table.concat(pieces)
end

-- The owner with `token` failed, as it says.
local function failed_of(token, reason)
  return 'f' .. token .. token .. reason
end

-- The owner with `token` gave no sign; `by` is the token that came after it, `whose`
-- the consumer that had the entry pending, if one had.
local function death_of(token, by, whose)
  local who = whose and 'its owner ' .. string.sub(whose, 1, 200) or 'its owner'
  return 'd' .. token .. by .. who .. ' ended without handing back'
end

local function with_failure(kept, failure)
  local list = split_kept(kept)
  list[#list + 1] = failure
  return join_kept(list)
end

-- The failure that is kept of `token`, and where in the list.
local function failure_of(list, token)
  for i = 1, #list do
    if string.sub(list[i], 2, 21) == token then
      return list[i], i
    end
  end
end

-- The raw fields of an entry, nil if it is not on the LBS (any more).
local function fields_of(id)
  local found = redis.call('XRANGE', lbs, id, id)
  return found[1] and found[1][2]
end

-- The consumer that has the entry pending, nil if none has.
local function pending_at(id)
  local rows = redis.call('XPENDING', lbs, group, id, id, 1)
  return rows[1] and rows[1][2]
end

-- Whether an entry is on the LBS. That can be asked only with its payload; once those
-- were long, an entry that is pending counts as there. Was it deleted and not
-- acknowledged, whoever lists it clears it away.
local unread = 262144
local function is_there(id)
  if unread <= 0 and pending_at(id) then
    return true
  end
  local fields = fields_of(id)
  for f = 1, fields and #fields or 0 do
    unread = unread - #fields[f]
  end
  return fields and true
end

-- The rows of the pending list for these entries, by entry. `low` and `high` are the
-- least and the greatest: a page is mostly a run of that list, and one look costs
-- less than one each. What lies beyond the limit is looked up singly.
local function pending_rows(ids, low, high)
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
local function clear(id)
  redis.call('XACK', lbs, group, id)
  redis.call('HDEL', tokens, id)
end
