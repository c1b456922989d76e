-- What scripts of all shelves share: texts, tokens and hints.

local function number(n)
  return string.format('%.0f', n)
end

local function starts_with(text, head)
  return text and string.find(text, head, 1, true) == 1
end

-- Above every token, as core says. What is not below it somebody else has written, and
-- no later owner could have a greater one.
local TOKEN_LIMIT = '09000000000000000000'

local function is_token(text)
  return #text == 20 and text < TOKEN_LIMIT
end

-- What TIME has answered, in ms.
local function ms_at(time)
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The token of that moment: µs as 20 digits.
local function token_at(time)
  return string.format('%014.0f%06.0f', time[1], time[2])
end

-- Length-prefixed, so that any bytes survive; read by decode.rs.
local function piece(text)
  return #text .. ':' .. text .. ','
end

-- The texts of which `pieces` is made; nil if it cannot be read.
local function texts_in(pieces)
  local texts, at = {}, 1
  while at <= #pieces do
    local length, from = string.match(pieces, '^(%d+):()', at)
    length = length and #length < 12 and tonumber(length)
    if not length or string.sub(pieces, from + length, from + length) ~= ',' then
      return nil
    end
    texts[#texts + 1] = string.sub(pieces, from, from + length - 1)
    at = from + length + 1
  end
  return texts
end

-- pcall: a user without rights on channels must not fail for a mere hint.
local function publish(channel, hint)
  redis.pcall('PUBLISH', channel, hint)
end
