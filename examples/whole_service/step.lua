local function wide(token) return string.rep('0', 20 - #token) .. token end
local seen = redis.call('HGET', KEYS[1], 'token') or '0'
if wide(ARGV[1]) < wide(seen) then
    return false
end
redis.call('HSET', KEYS[1], 'token', ARGV[1])
if ARGV[2] ~= '' then
    redis.call('HSET', KEYS[1], 'position', ARGV[2])
end
return redis.call('HGET', KEYS[1], 'position') or '0'
