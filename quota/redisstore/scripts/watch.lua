-- WATCH: clock, subscription, unit, version, levels as kind-value, separated
-- by commas.
local unit = ARGV[3]
loadlots()
tick(0)
local version = tonumber(string.match(meta['w|' .. unit] or '0:', '^(%d+):'))
if tonumber(ARGV[4]) <= version then return {'OK', '0', '0'} end
setmeta('w|' .. unit, ARGV[4] .. ':' .. ARGV[5])
local crossed = evaluate(ARGV[2])
save()
return {'OK', num(crossed), '1'}
