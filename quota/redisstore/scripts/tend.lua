-- TEND: clock, subscription, quarantine, an incarnation whose replay is done or
-- "". Returns how many crossings wait.
loadlots()
tick(0)
if next(lots) == nil and not meta.ver then return {'OK', '0'} end
loadnodes()
if ARGV[4] ~= '' then supersede(ARGV[4]) end
reclaimoverdue('', tonumber(ARGV[3]))
evaluate(ARGV[2])
save()
return {'OK', num(call('HLEN', OUTBOX))}
