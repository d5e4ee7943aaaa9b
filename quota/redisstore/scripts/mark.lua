-- MARK: sets the mark from ARGV[1] to ARGV[2]; see quota.Witness. The answer
-- is 1 when it was set.
local fmt = string.format
local from, to = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(redis.call('GET', KEYS[1]) or '0')
if from > 0 and now < from or from < 0 and now ~= from then return 0 end
if from > 0 and now > to then to = now end
redis.call('SET', KEYS[1], fmt('%.0f', to))
return 1
