-- GRANT: clock, subscription, lot, its packed form without folded_to and
-- bounds, its bounds, its version, the grant as JSON, learn ("" for none), the
-- start of the period that is open, run, the limits of a lot that goes on while
-- the store is away ("" for the defaults), then what is known to have been used
-- as from, used.
local subscription, id, version, learn = ARGV[2], ARGV[3], tonumber(ARGV[6]), ARGV[8]
local current = tonumber(ARGV[9])
loadlots()
tick(0)
local applied = 0
local old = lots[id]
if not old or version > old.version then
  applied = 1
  local text = ARGV[4] .. ':' .. num(old and old.folded or 0) .. ':' .. ARGV[5]
  call('HSET', LOTS, id, text)
  call('HSET', GRANTS, id, ARGV[7])
  lots[id] = parselot(id, text)
  if ARGV[11] ~= (meta['y|' .. id] or '') then setmeta('y|' .. id, ARGV[11]) end
  -- The period that is open, and later ones, get the amount; a cut cannot take
  -- what is used already. Without a definition before, nodes reported on the
  -- lot before its grant came back.
  local r = call('HGETALL', BUCKETS)
  for i = 1, #r, 2 do
    local from = string.sub(r[i], 1, #id + 1) == id .. '|' and tonumber(string.sub(r[i], #id + 2))
    if from and (not old or from >= current) then
      local b = parsebucket(r[i + 1])
      b.cap = max(lots[id].amount, used(b))
      buckets[r[i]], buckets_new[r[i]] = b, b
    end
  end
end
-- Should the first report be lost with its server, the next server is known to
-- be another one.
if not meta.run then setmeta('run', serverrun(ARGV[10])) end
if learn ~= '' then
  for i = 12, #ARGV, 2 do
    local b = bucket(id, tonumber(ARGV[i]))
    b.min = max(b.min, tonumber(ARGV[i + 1]))
  end
  setmeta('learn', num(max(metanum('learn'), clock + tonumber(learn))))
elseif applied == 0 then
  return {'OK', '0', '0'}
end
local crossed = evaluate(subscription)
save()
return {'OK', num(crossed), num(applied)}
