-- KEYS[1]  hash of one key's demands: node -> "weight@milliseconds"
-- ARGV     node, its weight, milliseconds for which a demand counts
-- Returns the sum of the demands that count, this node's with them, as text.
-- The live nodes are counted the same way, each with a weight of one.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local stale = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '@' .. now)
redis.call('PEXPIRE', KEYS[1], stale * 2)
local sum = 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local weight, at = string.match(all[i + 1], '^(.-)@(%d+)$')
  if now - tonumber(at) > stale then
    redis.call('HDEL', KEYS[1], all[i])
  else
    sum = sum + tonumber(weight)
  end
end
return string.format('%.17g', sum)
