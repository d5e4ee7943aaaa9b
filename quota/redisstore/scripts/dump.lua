-- DUMP: clock. All of a subscription at one instant.
local call = redis.call
local t = ARGV[1]
if t == '' then
  local s = call('TIME')
  t = string.format("%.0f", s[1] * 1000 + math.floor(s[2] / 1000))
end
local reply = {t}
for i = 1, #KEYS do reply[i + 1] = call('HGETALL', KEYS[i]) end
return reply
