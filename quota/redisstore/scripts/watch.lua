-- WATCH: clock, subscription, unit, version, levels as kind-value, separated
-- by commas, and the crossings that were delivered as kind-value:arm:1, 0
-- where the level was not armed again since.
local unit = ARGV[3]
loadlots()
tick(0)
local has, version = tonumber(string.match(meta['w|' .. unit] or '0:', '^(%d+):')), tonumber(ARGV[4])
if version < has or version == has and ARGV[6] == '' then return {'OK', '0', '0'} end
if version > has then setmeta('w|' .. unit, ARGV[4] .. ':' .. ARGV[5]) end
for name, arm, again in string.gmatch(ARGV[6], '(%a+%-%d+):(%d+):(%d)') do
  local key = 'a|' .. unit .. '|' .. name
  local n, fired = string.match(meta[key] or '0:0', '^(%d+):(%d)$')
  n, arm = tonumber(n), tonumber(arm)
  if n < arm or n == arm and fired == '0' then
    if again == '1' then setmeta(key, num(arm + 1) .. ':0') else setmeta(key, num(arm) .. ':1') end
  end
end
local crossed = evaluate(ARGV[2])
save()
return {'OK', num(crossed), version > has and '1' or '0'}
