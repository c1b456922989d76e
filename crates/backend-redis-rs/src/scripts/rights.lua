-- Which commands the caller may run. None of them is run, so that nothing is touched.
-- ARGV: for each command how many words it has, and these words.
-- Returns one character per command: 1 granted, 0 refused, ? not known to the server;
-- nothing if the server cannot tell.
if not redis.acl_check_cmd then
  return ''
end
local answers, at = {}, 1
while at <= #ARGV do
  local last = at + ARGV[at]
  local known, granted = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, last))
  answers[#answers + 1] = not known and '?' or granted and '1' or '0'
  at = last + 1
end
return table.concat(answers)
