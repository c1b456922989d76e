-- A page of the quarantine in the order of the entry ids.
-- KEYS: quarantine, its index.
-- ARGV: exclusive lower bound in the index, limit, most bytes, where the mending of the
-- index goes on ('': nothing is known of any, 'done': that is over).
-- Returns {rows}; or {false, where to go on} if the index is not what it must be, and
-- another step of mending it was made. '': all was looked at, and they differ still.
--
-- The index holds ids zero-padded, all with score 0, so that their order as
-- text is the order of the LBS. What is no id stands behind them all, so that both
-- have as many members; it is never listed. One of the two may have vanished alone;
-- what is in the quarantine counts. The steps may be repeated, and run beside those
-- of others. The cursor is the caller's to keep: no server but this one knows it.
local quarantine, index = KEYS[1], KEYS[2]
local after, limit, budget, mending = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
-- Members per step, and bytes of records: the server reads them with their names.
local STEP, STEP_BYTES = 500, 262144

local function id_of(member)
  if string.sub(member, 1, 1) == '~' then
    return string.sub(member, 2)
  end
  local ms, seq = string.match(member, '^0*(%d+)%-0*(%d+)$')
  return ms and ms .. '-' .. seq
end

local function member_of(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  if ms and #ms <= 20 and #seq <= 20 and not string.find(id, '^0%d') and not string.find(id, '%-0%d') then
    return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
  end
  return '~' .. id
end

local function differ()
  return redis.call('HLEN', quarantine) ~= redis.call('ZCARD', index)
end

-- Drops a step's worth of the members of which nothing is in the quarantine. Returns
-- the last one looked at if there are more.
local function drop_some(from)
  local members = redis.call('ZRANGEBYLEX', index, from, '+', 'LIMIT', 0, STEP)
  local stale = {}
  for _, member in ipairs(members) do
    local id = id_of(member)
    if not id or member_of(id) ~= member or redis.call('HEXISTS', quarantine, id) == 0 then
      stale[#stale + 1] = member
    end
  end
  if #stale > 0 then
    redis.call('ZREM', index, unpack(stale))
  end
  return members[STEP]
end

-- Adds a step's worth of what is in the quarantine. Returns the cursor, '0' at the end.
local function add_some(cursor)
  local seen, bytes, count = 0, 0, 1
  repeat
    local page = redis.call('HSCAN', quarantine, cursor, 'COUNT', count)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      redis.call('ZADD', index, '0', member_of(page[2][i]))
      bytes = bytes + #page[2][i + 1]
    end
    seen = seen + #page[2] / 2
    -- As many more as fit, by how long those are that were seen.
    local fit = seen == 0 and STEP or math.min(STEP - seen, (STEP_BYTES - bytes) * seen / (bytes + 1))
    count = math.max(1, math.min(math.floor(fit), 2 * count))
  until cursor == '0' or seen >= STEP or bytes >= STEP_BYTES
  return cursor
end

-- Another step, if the two differ. Returns where to go on, nil if they are as they must be.
local function mend()
  -- First everything goes that has nothing in the quarantine: only then do equal
  -- counts mean that nothing is missing.
  local from = string.match(mending, '^drop(.*)$') or (mending == '' and differ() and '-')
  if from then
    local last = drop_some(from)
    return last and 'drop(' .. last or (differ() and 'add0')
  end
  local cursor = string.match(mending, '^add(%d+)$')
  if cursor and differ() then
    cursor = add_some(cursor)
    return differ() and (cursor ~= '0' and 'add' .. cursor or '')
  end
end

local next_step = mend()
if next_step then
  return {false, next_step}
end
local members = redis.call('ZRANGEBYLEX', index, '(' .. after, '+', 'LIMIT', 0, limit)
local rows = {}
for _, member in ipairs(members) do
  local id = id_of(member)
  local blob = string.sub(member, 1, 1) ~= '~' and id and redis.call('HGET', quarantine, id)
  if blob then
    rows[#rows + 1] = {id, blob}
    budget = budget - #blob
    if budget <= 0 then
      break
    end
  end
end
return {rows}
