-- What the steps share. Go puts the names of the units before it and one step
-- behind it. ARGV[1] is the clock for tests, empty: this server's.
--
-- The rules are those of quota/ledger, and a differential test holds the two
-- together. Numbers are doubles: exact up to 2^53-1, which is the largest
-- amount of a lot, and printed with %.0f, since 1e15 .. '' is '1e+15'.
local call, fmt = redis.call, string.format
local floor, abs = math.floor, math.abs
local LOTS, BUCKETS, COUNTERS, NODES, META, OUTBOX, GRANTS =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local ZERO, OVERFLOW, VOID, RESET, CONTINUE, STOP = 1, 2, 4, 8, 16, 32
local OPEN, RECLAIMED, FINAL = 0, 1, 2

local function num(n) return fmt('%.0f', n) end
local function max(a, b) if a > b then return a end return b end
local function min(a, b) if a < b then return a end return b end

-- A hash that is read once and written once.
local function table_of(key)
  local t, r = {}, call('HGETALL', key)
  for i = 1, #r, 2 do t[r[i]] = r[i + 1] end
  return t
end
local function write(key, changes)
  local args, n = {}, 0
  for f, v in pairs(changes) do
    args[n + 1], args[n + 2] = f, v
    n = n + 2
    if n >= 200 then
      call('HSET', key, unpack(args))
      args, n = {}, 0
    end
  end
  if n > 0 then call('HSET', key, unpack(args)) end
end

-- meta: clock, learn, recall, run, ver; w|unit, a|unit|level, f|node, o|unit,
-- y|lot (seconds:credit while the store is away)
local meta, meta_new = table_of(META), {}
local function setmeta(k, v)
  if meta[k] ~= v then meta[k], meta_new[k] = v, v end
end
local function metanum(k) return tonumber(meta[k] or '0') end

local clock
local function tick(caller)
  local t
  if ARGV[1] ~= '' then
    t = tonumber(ARGV[1])
  else
    local s = call('TIME')
    t = s[1] * 1000 + floor(s[2] / 1000)
  end
  clock = metanum('clock')
  local skewed = caller ~= 0 and abs(t - caller) > 5000
  if not skewed or clock == 0 then clock = max(clock, t) end
  setmeta('clock', num(clock))
  return skewed
end

-- The identity of this server, or what a test says it is.
local function serverrun(given)
  if given ~= '' then return given end
  return string.match(call('INFO', 'server'), 'run_id:(%x+)')
end

-- lots: unit:amount:effective:expires:flags:version:folded_to:bounds
local lots = {}
local function parselot(id, text)
  local u, a, e, x, f, v, ft, b =
    string.match(text, '^(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(%d+):(.*)$')
  f = tonumber(f)
  return {
    id = id, unit = tonumber(u), amount = tonumber(a), eff = tonumber(e), exp = tonumber(x),
    zero = bit.band(f, ZERO) ~= 0, overflow = bit.band(f, OVERFLOW) ~= 0,
    void = bit.band(f, VOID) ~= 0, reset = bit.band(f, RESET) ~= 0,
    continues = bit.band(f, CONTINUE) ~= 0 or bit.band(f, OVERFLOW) ~= 0 and bit.band(f, STOP) == 0,
    version = tonumber(v), folded = tonumber(ft), bounds = b,
  }
end
local function loadlots()
  local r = call('HGETALL', LOTS)
  for i = 1, #r, 2 do lots[r[i]] = parselot(r[i], r[i + 1]) end
end
local function openat(l, t)
  return not l.void and l.eff <= t and (l.exp == 0 or t < l.exp)
end

-- The period of l that contains t, or nil when the list of its bounds does not
-- reach there.
local function period(l, t)
  if not l.reset then return l.eff, l.exp end
  local from
  for b in string.gmatch(l.bounds, '%d+') do
    b = tonumber(b)
    if b > t then return from, b end
    from = b
  end
  return nil
end
-- The lots whose list of bounds must be made longer before the step can run.
local function short(t)
  local list = {}
  for id, l in pairs(lots) do
    if l.reset and openat(l, t) then
      local from = period(l, t)
      if not from then list[#list + 1] = id end
    end
  end
  return list
end

-- buckets: cap:used:out:min
local buckets, buckets_new = {}, {}
local function parsebucket(text)
  local c, u, o, m = string.match(text, '^(%d+):(%d+):(%-?%d+):(%d+)$')
  return {cap = tonumber(c), used = tonumber(u), out = tonumber(o), min = tonumber(m)}
end
local function prefetch(key, parse, cache, fields)
  if #fields == 0 then return end
  local r = call('HMGET', key, unpack(fields))
  for i = 1, #fields do
    if r[i] then cache[fields[i]] = parse(r[i]) else cache[fields[i]] = false end
  end
end
local function findbucket(key)
  local b = buckets[key]
  if b == nil then
    local text = call('HGET', BUCKETS, key)
    b = text and parsebucket(text) or false
    buckets[key] = b
  end
  return b
end
local function bucket(id, from)
  local key = id .. '|' .. num(from)
  local b = findbucket(key)
  if not b then
    b = {cap = lots[id] and lots[id].amount or 0, used = 0, out = 0, min = 0}
    buckets[key] = b
  end
  buckets_new[key] = b
  return b
end
local function used(b) return max(b.used, b.min) end
local function bucketof(l, from)
  return findbucket(l.id .. '|' .. num(from)) or {cap = l.amount, used = 0, out = 0, min = 0}
end

-- counters: granted:used:returned
local counters, counters_new = {}, {}
local function parsecounter(text)
  local g, u, r = string.match(text, '^(%d+):(%d+):(%d+)$')
  return {g = tonumber(g), u = tonumber(u), r = tonumber(r)}
end
local function findcounter(key)
  local c = counters[key]
  if c == nil then
    local text = call('HGET', COUNTERS, key)
    c = text and parsecounter(text) or false
    counters[key] = c
  end
  return c
end
local function out(c) return c.g - c.u - c.r end
local function move(inc, id, from, g, u, r)
  local key = inc .. '|' .. id .. '|' .. num(from)
  local c = findcounter(key)
  if not c then
    c = {g = 0, u = 0, r = 0}
    counters[key] = c
  end
  local b = bucket(id, from)
  b.used = b.used + u - c.u
  b.out = b.out + (g - u - r) - out(c)
  c.g, c.u, c.r = g, u, r
  counters_new[key] = c
end

-- nodes: deadline:seen:state:overrun
local nodes, nodes_new = {}, {}
local function parseover(text)
  local o = {}
  for u, n in string.gmatch(text, '(%d+)=(%d+)') do o[tonumber(u)] = tonumber(n) end
  return o
end
local function loadnodes()
  local r = call('HGETALL', NODES)
  for i = 1, #r, 2 do
    local d, s, st, o = string.match(r[i + 1], '^(%d+):(%d+):(%d+):(.*)$')
    nodes[r[i]] = {deadline = tonumber(d), seen = tonumber(s), state = tonumber(st), overrun = parseover(o)}
  end
end
local function node(inc)
  local n = nodes[inc]
  if not n then
    n = {deadline = 0, seen = 0, state = OPEN, overrun = {}}
    nodes[inc] = n
  end
  nodes_new[inc] = n
  return n
end
local function active()
  local n = 0
  for _, node in pairs(nodes) do
    if node.state == OPEN and node.seen + 10000 > clock then n = n + 1 end
  end
  return max(n, 1)
end
local function splitinc(inc)
  local name, boot = string.match(inc, '^(.*)@(%d+)$')
  return name, tonumber(boot)
end
local function folded(inc)
  local name, boot = splitinc(inc)
  return boot <= metanum('f|' .. name)
end

-- Merges counters given as lot, from, granted, used, returned from ARGV[at] on,
-- and the overrun. Tells whether a grant is not on the books.
local function merge(inc, n, over, at, count)
  local lost, fields, bfields = false, {}, {}
  for i = 0, count - 1 do
    local key = ARGV[at + 5 * i] .. '|' .. ARGV[at + 5 * i + 1]
    if counters[inc .. '|' .. key] == nil then fields[#fields + 1] = inc .. '|' .. key end
    if buckets[key] == nil then bfields[#bfields + 1] = key end
  end
  prefetch(COUNTERS, parsecounter, counters, fields)
  prefetch(BUCKETS, parsebucket, buckets, bfields)
  for i = at, at + 5 * count - 1, 5 do
    local id, from = ARGV[i], tonumber(ARGV[i + 1])
    local l = lots[id]
    if not (l and from < l.folded) then
      local c = findcounter(inc .. '|' .. id .. '|' .. ARGV[i + 1]) or {g = 0, u = 0, r = 0}
      local g = max(c.g, tonumber(ARGV[i + 2]))
      local u = max(c.u, tonumber(ARGV[i + 3]))
      if g > c.g and not (l and l.continues) then lost = true end
      g = max(g, u)
      -- A late use shrinks what was returned or taken back.
      local r = min(max(c.r, tonumber(ARGV[i + 4])), g - u)
      move(inc, id, from, g, u, r)
    end
  end
  for u, amount in pairs(parseover(over)) do
    n.overrun[u] = max(n.overrun[u] or 0, amount)
  end
  return lost
end

local all_counters = false
local function returnall(inc)
  if not all_counters then
    local r = call('HGETALL', COUNTERS)
    for i = 1, #r, 2 do
      if not counters[r[i]] then counters[r[i]] = parsecounter(r[i + 1]) end
    end
    all_counters = true
  end
  local prefix = inc .. '|'
  for key, c in pairs(counters) do
    if c and string.sub(key, 1, #prefix) == prefix and out(c) > 0 then
      local id, from = string.match(string.sub(key, #prefix + 1), '^(.*)|(%d+)$')
      move(inc, id, tonumber(from), c.g, c.u, c.g - c.u)
    end
  end
end
-- Closes the earlier incarnations of a node that has started again.
local function supersede(inc)
  local name, boot = splitinc(inc)
  for other, o in pairs(nodes) do
    local oname, oboot = splitinc(other)
    if oname == name and oboot < boot and o.state ~= FINAL then
      returnall(other)
      node(other).state = FINAL
    end
  end
end
local function reclaimoverdue(but, quarantine)
  if clock < metanum('learn') then return end
  for inc, n in pairs(nodes) do
    if inc ~= but and n.state == OPEN and n.deadline + quarantine <= clock then
      returnall(inc)
      node(inc).state = RECLAIMED
    end
  end
end

-- Order of ids by bytes: the comparison of strings depends on the locale.
local function before(x, y)
  for i = 1, min(#x, #y) do
    local a, b = string.byte(x, i), string.byte(y, i)
    if a ~= b then return a < b end
  end
  return #x < #y
end
-- PKG-20: zero price, earliest end, earliest effective, earliest created;
-- credit lines after all packages.
local function earlier(x, y)
  if x.l.overflow ~= y.l.overflow then return not x.l.overflow end
  if x.l.zero ~= y.l.zero then return x.l.zero end
  if x.to ~= y.to then
    if x.to == 0 then return false end
    return y.to == 0 or x.to < y.to
  end
  if x.l.eff ~= y.l.eff then return x.l.eff < y.l.eff end
  return before(x.l.id, y.l.id)
end
-- The lots that are open at t, by unit, in draw-down order.
local function openlots(t)
  local units, fields = {}, {}
  for id, l in pairs(lots) do
    if openat(l, t) then
      local from, to = period(l, t)
      if l.exp ~= 0 then to = (to == 0) and l.exp or min(to, l.exp) end
      local list = units[l.unit]
      if not list then
        list = {}
        units[l.unit] = list
      end
      list[#list + 1] = {l = l, from = from, to = to, key = id .. '|' .. num(from)}
      if buckets[list[#list].key] == nil then fields[#fields + 1] = list[#list].key end
    end
  end
  prefetch(BUCKETS, parsebucket, buckets, fields)
  for _, list in pairs(units) do table.sort(list, earlier) end
  return units
end

local function reached(kind, value, remaining, total)
  if kind == 'percent' then
    return remaining <= floor(total / 100) * value + floor(total % 100 * value / 100)
  end
  return remaining <= value
end
-- Compares what remains with every threshold (ALERT-13, 20, 21) and puts each
-- crossing in the outbox. Returns how many there were.
local function evaluate(subscription)
  local crossed = 0
  for unit = 0, #UNITS do
    local watch = meta['w|' .. unit]
    if watch then
      local remaining, total = 0, 0
      for id, l in pairs(lots) do
        if l.unit == unit and not l.reset and not l.overflow and openat(l, clock) then
          local b = bucketof(l, l.eff)
          remaining = remaining + max(0, b.cap - used(b))
          total = total + b.cap
        end
      end
      if total > 0 then
        for kind, value in string.gmatch(string.match(watch, ':(.*)$'), '(%a+)-(%d+)') do
          local name = kind .. '-' .. value
          local n, fired = string.match(meta['a|' .. unit .. '|' .. name] or '1:0', '^(%d+):(%d)$')
          local now = reached(kind, tonumber(value), remaining, total)
          if now and fired == '0' then
            local id = subscription .. '/' .. UNITS[unit] .. '/' .. name .. '/' .. n
            call('HSET', OUTBOX, id, fmt('%d|%s|%s|%.0f|%.0f|%.0f', unit, name, n, remaining, total, clock))
            crossed = crossed + 1
          end
          if not now and fired == '1' then
            -- While the state is relearned not all use is known: less may
            -- remain than it seems.
            if clock < metanum('learn') then now = true else n = num(tonumber(n) + 1) end
          end
          setmeta('a|' .. unit .. '|' .. name, n .. ':' .. (now and '1' or '0'))
        end
      end
    end
  end
  return crossed
end

local function save()
  local changes = {}
  for key, b in pairs(buckets_new) do
    changes[key] = fmt('%.0f:%.0f:%.0f:%.0f', b.cap, b.used, b.out, b.min)
  end
  write(BUCKETS, changes)
  changes = {}
  for key, c in pairs(counters_new) do
    changes[key] = fmt('%.0f:%.0f:%.0f', c.g, c.u, c.r)
  end
  write(COUNTERS, changes)
  changes = {}
  for inc, n in pairs(nodes_new) do
    local over = {}
    for unit = 0, #UNITS do
      if n.overrun[unit] and n.overrun[unit] > 0 then
        over[#over + 1] = fmt('%d=%.0f', unit, n.overrun[unit])
      end
    end
    changes[inc] = fmt('%.0f:%.0f:%d:%s', n.deadline, n.seen, n.state, table.concat(over, ','))
  end
  write(NODES, changes)
  setmeta('ver', num(metanum('ver') + 1))
  write(META, meta_new)
end
