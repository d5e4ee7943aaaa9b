-- TEND: clock, subscription, quarantine. Returns also how many crossings wait.
loadlots()
tick(0)
if next(lots) == nil and not meta.ver then return {'OK', '0'} end
loadnodes()
reclaimoverdue('', tonumber(ARGV[3]))
evaluate(ARGV[2])
save()
return {'OK', num(call('HLEN', OUTBOX))}
