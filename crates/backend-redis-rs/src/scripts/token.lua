-- Shared head of the scripts that mint tokens; lock.lua comes before it.
--
-- Tokens are 20 digits of text; as one number they would have to be below 2^53,
-- so they are counted up in two parts: the last six digits, and those before.
-- (A token that is the clock's has its seconds in the one, µs in the other.)
local minted, minted_head, minted_low

local function count_from(token)
  minted = token
  minted_head = string.sub(token, 1, 14)
  minted_low = tonumber(string.sub(token, 15))
end

-- Never below the server's clock, so that a counter whose last writes were lost
-- mints no token a second time.
local function start_minting(counter_key)
  count_from(string.format('%014.0f%06.0f', time[1], time[2]))
  local counter = redis.call('GET', counter_key)
  if counter and #counter == 20 and string.match(counter, '^%d+$') and counter > minted then
    count_from(counter)
  end
end

-- A token greater than the last one minted and than `floor`.
local function mint(floor)
  if floor > minted then
    count_from(floor)
  end
  minted_low = minted_low + 1
  if minted_low == 1000000 then
    minted_head, minted_low = string.format('%014.0f', tonumber(minted_head) + 1), 0
  end
  minted = minted_head .. string.format('%06d', minted_low)
  return minted
end

local function end_minting(counter_key)
  redis.call('SET', counter_key, minted)
end
