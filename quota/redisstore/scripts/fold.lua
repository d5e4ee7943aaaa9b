-- FOLD: clock, the version the caller saw, then changes as key number, field,
-- "=" and the value to set or "-" to delete. Nothing happens when the
-- subscription changed meanwhile.
if (meta.ver or '') ~= ARGV[2] then return {'OK', '0'} end
for i = 3, #ARGV, 4 do
  local key = KEYS[tonumber(ARGV[i])]
  if ARGV[i + 2] == '=' then
    call('HSET', key, ARGV[i + 1], ARGV[i + 3])
  else
    call('HDEL', key, ARGV[i + 1])
  end
end
call('HINCRBY', META, 'ver', 1)
return {'OK', '1'}
