-- Shared head of the scripts that mint tokens; lock.lua comes before it.
--
-- Tokens are 20 digits of text; as one number they would have to be below 2^53,
-- so they are counted up in two halves.
local minted_high, minted_low

local function halves(token)
  return tonumber(string.sub(token, 1, 10)), tonumber(string.sub(token, 11))
end

local function at_least(high, low)
  if high > minted_high or (high == minted_high and low > minted_low) then
    minted_high, minted_low = high, low
  end
end

-- Never below the server's clock, so that a counter whose last writes were lost
-- mints no token a second time.
local function start_minting(counter_key)
  local counter = redis.call('GET', counter_key)
  minted_high, minted_low = 0, 0
  if counter and #counter == 20 and string.match(counter, '^%d+$') then
    minted_high, minted_low = halves(counter)
  end
  local micros = time[1] * 1000000 + time[2]
  at_least(math.floor(micros / 1e10), micros % 1e10)
end

-- A token greater than the last one minted and than `floor`.
local function mint(floor)
  at_least(halves(floor))
  minted_low = minted_low + 1
  if minted_low == 1e10 then
    minted_high, minted_low = minted_high + 1, 0
  end
  return string.format('%010.0f%010.0f', minted_high, minted_low)
end

local function end_minting(counter_key)
  redis.call('SET', counter_key, string.format('%010.0f%010.0f', minted_high, minted_low))
end
