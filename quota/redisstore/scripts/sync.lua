-- SYNC: clock, run, incarnation, the node's time, ttl, quarantine,
-- subscription, overrun, channel, number of counters, then each as lot, from,
-- granted, used, returned, then each demand as unit, at, floor, target.
local inc, caller, ttl, quarantine = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local subscription, channel, count = ARGV[7], ARGV[9], tonumber(ARGV[10])
local demands_at = 11 + 5 * count

loadlots()
local skewed = tick(caller)
local function lateat(at) return max(at, clock - 900000) end
for i = demands_at, #ARGV, 4 do
  local at = tonumber(ARGV[i + 1])
  if at ~= 0 and at < clock then
    local list = short(lateat(at))
    if #list > 0 then return {'NEED', num(clock), unpack(list)} end
  end
end
local list = short(clock)
if #list > 0 then return {'NEED', num(clock), unpack(list)} end

if folded(inc) then return {'OK', num(clock), '1', '0', '1', '', '0'} end
-- A subscription that was never granted anything leaves no trace.
if next(lots) == nil and count == 0 and ARGV[8] == '' and not meta.ver then
  return {'OK', num(clock), skewed and '4' or '0', '0', '1', '', '0'}
end
loadnodes()

local run = serverrun(ARGV[2])
local another = meta.run and meta.run ~= run
if another and not skewed then setmeta('learn', num(max(metanum('learn'), clock + ttl))) end
-- A clock that stands still cannot time the relearning: the next report begins
-- it, and until then nothing is granted.
if not another or not skewed then setmeta('run', run) end

-- The buckets and counters of the open lots, read at once.
local open = openlots(clock)
do
  local fields = {}
  for _, list in pairs(open) do
    for _, o in ipairs(list) do fields[#fields + 1] = inc .. '|' .. o.key end
  end
  prefetch(COUNTERS, parsecounter, counters, fields)
end

local n = node(inc)
if merge(inc, n, ARGV[8], 11, count) then
  -- The node holds a grant that is not on the books: writes were lost.
  setmeta('learn', num(max(metanum('learn'), clock + ttl)))
end
n.seen = clock
local closed, learning, recall = n.state == FINAL, false, false

-- Raises what is outstanding with the node to what it demands.
local function grant(unit, at, low, high)
  local lots = open
  if at ~= 0 and at < clock then lots = openlots(lateat(at)) end
  local list = lots[unit] or {}
  local have, others = 0, 0
  for _, o in ipairs(list) do
    o.b = bucketof(o.l, o.from)
    local c = findcounter(inc .. '|' .. o.key)
    if c then
      have = have + out(c)
      others = others - out(c)
    end
    others = others + o.b.out
  end
  local n, left = active(), 0
  for _, o in ipairs(list) do left = left + max(0, o.b.cap - used(o.b) - o.b.out) end
  for _, o in ipairs(list) do
    local rem = o.b.cap - used(o.b) - o.b.out
    if rem > 0 then
      if learning or have >= max(low, high) then break end
      local share = 1
      -- Shares shrink as all lots together run out: a small lot with others
      -- behind it may go to one node whole.
      if left > 2 * n then share = floor(left / (2 * n)) end
      left = left - rem
      local give = min(max(low - have, min(high - have, share)), rem)
      local c = findcounter(inc .. '|' .. o.key) or {g = 0, u = 0, r = 0}
      move(inc, o.l.id, o.from, c.g + give, c.u, c.r)
      have = have + give
      if give < rem then break end -- this lot still has units: the next must wait
    end
  end
  return have < low and others > 0 and not learning
end

if not closed then
  n.state = OPEN
  n.deadline = clock + ttl
  supersede(inc)
  if not skewed then reclaimoverdue(inc, quarantine) end
  learning = clock < metanum('learn') or meta.run ~= run
  for i = demands_at, #ARGV, 4 do
    if grant(tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])) then
      recall = true
    end
  end
  if recall and clock - metanum('recall') >= 10 then
    setmeta('recall', num(clock))
    call('PUBLISH', channel, subscription)
  end
end
local crossed = evaluate(subscription)

-- The answer: the open buckets in order, then others the node has counters in.
local known, seen, lines = {}, {}, {}
local next_change = 0
for _, l in pairs(lots) do
  known[l.unit] = true
  if not l.void then
    local t = l.eff
    if t <= clock then
      t = l.exp
      if l.reset and openat(l, clock) then
        local _, to = period(l, clock)
        t = (l.exp ~= 0) and min(to, l.exp) or to
      end
    end
    if t > clock and (next_change == 0 or t < next_change) then next_change = t end
  end
end
local function line(id, from, to, isopen, remaining)
  local key = id .. '|' .. num(from)
  seen[key] = true
  local seconds, credit = string.match(meta['y|' .. id] or '', '^(%d+):(%d+)$')
  local b, c, l = findbucket(key), findcounter(inc .. '|' .. key), lots[id]
  lines[#lines + 1] = fmt('%s|%.0f|%.0f|%d|%d|%d|%.0f|%.0f|%.0f|%.0f|%.0f|%d|%s|%s', id, from, to,
    l and l.unit or 0, isopen, (l and l.overflow) and 1 or 0, remaining,
    b and b.out or 0, c and c.g or 0, c and c.u or 0, c and c.r or 0,
    (l and l.continues) and 1 or 0, seconds or '0', credit or '0')
end
local units = {}
for unit = 0, #UNITS do
  if known[unit] then
    units[#units + 1] = unit
    for _, o in ipairs(open[unit] or {}) do
      local b = bucketof(o.l, o.from)
      line(o.l.id, o.from, o.to, 1, max(0, b.cap - used(b) - b.out))
    end
    for i = demands_at, #ARGV, 4 do
      local at = tonumber(ARGV[i + 1])
      if tonumber(ARGV[i]) == unit and at ~= 0 and at < clock then
        for _, o in ipairs(openlots(lateat(at))[unit] or {}) do
          if not seen[o.key] and findcounter(inc .. '|' .. o.key) then line(o.l.id, o.from, o.to, 0, 0) end
        end
      end
    end
  end
end
for i = 11, demands_at - 1, 5 do
  if not seen[ARGV[i] .. '|' .. ARGV[i + 1]] then line(ARGV[i], tonumber(ARGV[i + 1]), 0, 0, 0) end
end
local status = (closed and 1 or 0) + (learning and 2 or 0) + (skewed and 4 or 0)
local live = active()
save()
return {'OK', num(clock), num(status), num(next_change), num(live), table.concat(units, ','), num(crossed), unpack(lines)}
