-- BOUNDS: clock, lot, version, bounds. Makes the list of a lot's period starts
-- longer; the list is a function of the grant, so whoever writes it last is as
-- right as the others.
local text = call('HGET', LOTS, ARGV[2])
if not text then return {'OK', '0'} end
local l = parselot(ARGV[2], text)
if l.version == tonumber(ARGV[3]) then
  local head = string.match(text, '^(.*:)[%d,]*$')
  call('HSET', LOTS, ARGV[2], head .. ARGV[4])
end
return {'OK', '0'}
