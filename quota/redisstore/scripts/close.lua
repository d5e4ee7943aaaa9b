-- CLOSE: clock, incarnation, "1" for good, subscription, overrun, number of
-- counters, then each as lot, from, 0, used, 0.
local inc, final, subscription, count = ARGV[2], ARGV[3] == '1', ARGV[4], tonumber(ARGV[6])
loadlots()
tick(0)
if folded(inc) then return {'OK', '0'} end
loadnodes()
local n = node(inc)
merge(inc, n, ARGV[5], 7, count)
returnall(inc)
n.seen = max(n.seen, clock)
if final then
  n.state = FINAL
elseif n.state == OPEN then
  n.state = RECLAIMED
end
local crossed = evaluate(subscription)
save()
return {'OK', num(crossed)}
