-- A page of the quarantine in the order of the entry ids.
-- KEYS: quarantine, its index.  ARGV: exclusive lower bound in the index, limit, most bytes.
-- The index holds ids zero-padded, all with score 0, so that their order as
-- text is the order of the LBS.
-- One of the two may have vanished alone; what is in the quarantine counts. Looked at
-- where a listing begins.
if not string.find(ARGV[1], '[1-9]') and redis.call('HLEN', KEYS[1]) ~= redis.call('ZCARD', KEYS[2]) then
  redis.call('UNLINK', KEYS[2])
  for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    -- What is no id stands behind all ids, so that the counts meet; it is never listed.
    local member = '~' .. id
    if ms and #ms <= 20 and #seq <= 20 and not string.find(id, '^0%d') and not string.find(id, '%-0%d') then
      member = string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
    end
    redis.call('ZADD', KEYS[2], '0', member)
  end
end
local members = redis.call('ZRANGEBYLEX', KEYS[2], '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local rows, budget = {}, tonumber(ARGV[3])
for _, member in ipairs(members) do
  local ms, seq = string.match(member, '^0*(%d+)%-0*(%d+)$')
  local blob = ms and redis.call('HGET', KEYS[1], ms .. '-' .. seq)
  if blob then
    rows[#rows + 1] = {ms .. '-' .. seq, blob}
    budget = budget - #blob
    if budget <= 0 then
      break
    end
  end
end
return rows
