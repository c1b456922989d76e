-- Which data stream an entry announces; for scripts that keep the hash of the announced ones.

-- What every producer begins a payload with; those of Go, too.
local HEAD = '{"DataStreamName":'

-- The data stream of a payload; nil if it does not begin as producers write it. The rest is
-- not read: an info may be long.
local function stream_of(payload)
  if string.sub(payload, 1, #HEAD + 1) ~= HEAD .. '"' then
    return nil
  end
  local at = #HEAD + 2
  while true do
    at = string.find(payload, '["\\]', at)
    if not at then
      return nil
    end
    if string.sub(payload, at, at) == '"' then
      break
    end
    at = at + 2
  end
  local name = string.sub(payload, #HEAD + 1, at)
  if not string.find(name, '\\', 1, true) then
    return string.sub(name, 2, -2)
  end
  local is_read, names = pcall(cjson.decode, '[' .. name .. ']')
  return is_read and names[1] or nil
end

-- The payload among an entry's fields.
local function payload_in(fields, field)
  for f = 1, #fields, 2 do
    if fields[f] == field then
      return fields[f + 1]
    end
  end
end
