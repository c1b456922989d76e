-- Shared head of the scripts that append a page of a batch with a key, instead of batch.lua:
-- each name is remembered by itself.
--
-- KEYS of each: LBS; a script's own, from K + 1 on; what became of each name.
-- ARGV of each: group, the batch's id, how long to remember (ms), the payload's field name.
--       Then come the payloads; '' only asks.
local lbs = KEYS[1]
local group, batch, ttl, field = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local K, A = 1, 4
local count = #ARGV - A
local names = #KEYS - count
-- Nothing is lost in the middle: what the server has forgotten is appended.
local known, before = 0, 0
local ids = {}
for i = 1, count do
  -- pcall: whatever others write there is not believed.
  local value = redis.pcall('GET', KEYS[names + i])
  local mark, id, by = string.match(type(value) == 'string' and value or '', '^(=?)(%d+%-%d+) (%x+)$')
  if id then
    redis.call('PEXPIRE', KEYS[names + i], ttl)
    ids[i] = (mark == '' and by ~= batch and '+' or mark) .. id
  else
    ids[i] = false
  end
end

local function remember(i, outcome)
  ids[i] = outcome
  redis.call('SET', KEYS[names + i], outcome .. ' ' .. batch, 'PX', ttl)
end

local function keep()
end
