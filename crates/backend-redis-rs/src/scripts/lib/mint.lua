-- Mints tokens; locks.lua comes before it.
--
-- Tokens are 20 digits of text; as one number they would have to be below 2^53,
-- so they are counted up in two parts: the last six digits, and those before.
-- (A token that is the clock's has its seconds in the one, µs in the other.)
--
-- The last digit is put behind the rest: formatting each token whole costs more
-- than all else that is done for it here.
local minted, minted_head, minted_low, minted_but_last, last_floor
local DIGITS = {[0] = '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'}

local function count_from(token)
  minted = token
  minted_head = string.sub(token, 1, 14)
  minted_low = tonumber(string.sub(token, 15))
  minted_but_last = nil
end

-- Never below the server's clock, so that a counter whose last writes were lost
-- mints no token a second time.
local function start_minting(counter_key)
  count_from(token_at(time))
  local counter = redis.call('GET', counter_key)
  if counter and is_token(counter) and not string.find(counter, '%D') and counter > minted then
    count_from(counter)
  end
end

-- A token greater than the last one minted and than `floor`.
local function mint(floor)
  -- Mostly all of a page have the same, and comparing texts is dear.
  if floor ~= last_floor then
    last_floor = floor
    if floor > minted then
      count_from(floor)
    end
  end
  minted_low = minted_low + 1
  if minted_low == 1000000 then
    minted_head, minted_low = string.format('%014.0f', tonumber(minted_head) + 1), 0
  end
  local last = minted_low % 10
  if last == 0 or not minted_but_last then
    minted_but_last = minted_head .. string.format('%05d', (minted_low - last) / 10)
  end
  minted = minted_but_last .. DIGITS[last]
  return minted
end

local function end_minting(counter_key)
  redis.call('SET', counter_key, minted)
end
