-- Shared head of the scripts that append a page of a batch.
--
-- KEYS of each: LBS, what became of the batch so far.  A script's own keys begin at K + 1.
-- ARGV of each: group, how many of the batch come before this page, how long to remember
--       (ms), the payload's field name.  Then come the payloads.
local lbs, batch = KEYS[1], KEYS[2]
local group, before, ttl, field = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local K, A = 2, 4
local count = #ARGV - A
local known = redis.call('LLEN', batch)
local asks_known = count > 0 and known > before
local ids = asks_known and redis.call('LRANGE', batch, before, before + count - 1) or {}
local added = {}

local function remember(i, outcome)
  ids[i] = outcome
  added[#added + 1] = outcome
end

local function keep()
  if #added > 0 then
    redis.call('RPUSH', batch, unpack(added))
  end
  redis.call('PEXPIRE', batch, ttl)
end
