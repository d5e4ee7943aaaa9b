package limit

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config holds the settings of a Table.
type Config struct {
	// MaxCalls is how many calls the node serves at once. When they run short,
	// no credential gets more than its share of them: see Take. 0: no bound.
	MaxCalls int64
	// MaxKeys bounds the keys whose state is kept. Beyond it, the one of a few
	// that called longest ago is forgotten. Default 1 << 20.
	MaxKeys int
}

const shards = 64

type shard struct {
	mu   sync.RWMutex
	keys map[string]*entry
	_    [32]byte // shards are used by different cores
}

// Table keeps the state of every key. It is safe for concurrent use.
type Table struct {
	cfg       Config
	clustered bool // demand is counted; set before the first call
	seed      maphash.Seed
	shards    [numScopes][shards]shard

	running atomic.Int64 // calls under way on this node, where MaxCalls bounds them
	keys    atomic.Int64
	nodes   atomic.Int64 // live nodes, as far as known
	forgot  atomic.Int64 // keys forgotten although they were not idle
}

// NewTable returns an empty table.
func NewTable(cfg Config) *Table {
	if cfg.MaxKeys <= 0 {
		cfg.MaxKeys = 1 << 20
	}
	t := &Table{cfg: cfg, seed: maphash.MakeSeed()}
	for s := range t.shards {
		for i := range t.shards[s] {
			t.shards[s][i].keys = make(map[string]*entry)
		}
	}
	t.nodes.Store(1)
	return t
}

// Fair reports whether calls are counted by credential although no rule of
// theirs asks for it.
func (t *Table) Fair() bool { return t.cfg.MaxCalls > 0 }

// Keys returns how many keys have state.
func (t *Table) Keys() int64 { return t.keys.Load() }

// Forgotten returns how many keys were forgotten for want of room although they
// were not idle: their buckets were full again too early.
func (t *Table) Forgotten() int64 { return t.forgot.Load() }

// Running returns the calls under way, where Config.MaxCalls bounds them.
func (t *Table) Running() int64 { return t.running.Load() }

// maxClaims is how many rules a call can fall under.
const maxClaims = 4

// Grant is what a call has taken. Its zero value has taken nothing. It must be
// ended exactly once; a second End does nothing.
type Grant struct {
	table   *Table
	n       int
	counted bool // among the node's calls
	held    [maxClaims]held
}

// held is what was taken under one claim.
type held struct {
	*entry
	*force
	reserved int
}

// Held reports whether there is something to end.
func (g *Grant) Held() bool { return g.table != nil }

// hunger is how much of what is free on the node one credential may take: with
// k of them wanting all they can get each is held to hunger/(1+k*hunger) of the
// node, so that there is always something free for one that comes. This is the
// dynamic threshold of Choudhury and Hahne.
const hunger = 4

// Take admits a call that may use so many tokens under every claim, or under
// none. It adds to what g holds already.
//
// Where the node's calls are bounded, a Credential claim is also refused
// (KindShare) while the credential has hunger times as many calls under way as
// the node has room for: one hot key fills no more than four fifths of a node,
// and a key without calls is let in while there is room for one.
func (t *Table) Take(g *Grant, now time.Time, claims []Claim, tokens int64) Refusal {
	from := g.n
	for i := range claims {
		c := &claims[i]
		e, f, ref := t.begin(c, now)
		if ref.Kind == KindNone && c.Scope == Credential && t.cfg.MaxCalls > 0 && !g.counted {
			// The call itself is in both figures.
			if all := t.running.Add(1); e.calls.Load()-1 >= hunger*(t.cfg.MaxCalls-all+1) {
				t.running.Add(-1)
				e.end()
				ref = Refusal{Kind: KindShare, Limit: t.cfg.MaxCalls, After: time.Second}
			} else {
				g.counted, g.table = true, t
			}
		}
		var reserved int
		if ref.Kind == KindNone {
			if reserved, ref = f.take(now, tokens); ref.Kind != KindNone {
				e.end()
			}
		}
		if ref.Kind != KindNone {
			ref.Scope = c.Scope
			t.undo(g, now, from)
			return ref
		}
		g.table = t
		g.held[g.n] = held{e, f, reserved}
		g.n++
	}
	return Refusal{}
}

// begin counts the call of a claim as under way and returns its state.
func (t *Table) begin(c *Claim, now time.Time) (*entry, *force, Refusal) {
	for {
		var e *entry
		if c.Ref != nil {
			e = c.Ref.entry.Load()
		}
		if e == nil {
			e = t.find(c, now)
		}
		if at := now.UnixNano(); at-e.seen.Load() > int64(time.Second) {
			e.seen.Store(at)
		}
		if t.clustered {
			e.asked.Add(1)
		}
		f := e.force.Load()
		if f.rule != *c.Rule {
			f = e.configure(now, *c.Rule, 0)
		}
		switch ok, alive := e.begin(f.most); {
		case ok:
			return e, f, Refusal{}
		case alive:
			return e, f, Refusal{Kind: KindConcurrency, Limit: f.rule.Concurrency, After: time.Second}
		}
		// It was forgotten between finding it and now.
		if c.Ref != nil {
			c.Ref.entry.CompareAndSwap(e, nil)
		}
	}
}

// undo gives back what was taken beyond the first from claims of g.
func (t *Table) undo(g *Grant, now time.Time, from int) {
	for g.n > from {
		g.n--
		h := &g.held[g.n]
		h.undo(now, h.reserved)
		h.end()
		*h = held{}
	}
	if from == 0 {
		g.drop()
	}
}

// drop takes the call off the node's count.
func (g *Grant) drop() {
	if g.counted {
		g.table.running.Add(-1)
	}
	g.counted, g.table = false, nil
}

// Undo gives everything back: the call did not happen.
func (g *Grant) Undo(now time.Time) {
	if g.table != nil {
		g.table.undo(g, now, 0)
	}
}

// Keep gives back what was taken beyond the first n claims: the call tries
// another subscription.
func (g *Grant) Keep(now time.Time, n int) {
	if g.table != nil && g.n > n {
		g.table.undo(g, now, n)
	}
}

// Claims returns how many claims g holds.
func (g *Grant) Claims() int { return g.n }

// End ends the call. It used so many tokens; below 0: as many as were reserved.
func (g *Grant) End(now time.Time, tokens int64) {
	if g.table == nil {
		return
	}
	for i := range g.n {
		h := &g.held[i]
		if tokens >= 0 {
			h.correct(now, int64(h.reserved), tokens)
		}
		h.end()
		*h = held{}
	}
	g.n = 0
	g.drop()
}

// find returns the entry of a claim, making it where there is none.
func (t *Table) find(c *Claim, now time.Time) *entry {
	s := &t.shards[c.Scope][maphash.String(t.seed, c.Key)%shards]
	s.mu.RLock()
	e := s.keys[c.Key]
	s.mu.RUnlock()
	if e == nil {
		e = t.add(s, c, now)
	}
	if c.Ref != nil {
		e.ref.Store(c.Ref)
		c.Ref.entry.Store(e)
		if e.calls.Load() < 0 { // forgotten meanwhile: nobody else would clear it
			c.Ref.entry.CompareAndSwap(e, nil)
		}
	}
	return e
}

func (t *Table) add(s *shard, c *Claim, now time.Time) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.keys[c.Key]; e != nil {
		return e
	}
	if t.keys.Load() >= int64(t.cfg.MaxKeys) {
		t.forget(s, now)
	}
	e := &entry{scope: c.Scope, key: strings.Clone(c.Key)}
	e.seen.Store(now.UnixNano())
	e.configure(now, *c.Rule, t.fallbackShare())
	s.keys[e.key] = e
	t.keys.Add(1)
	return e
}

// fallbackShare is a node's share of a key nobody has told anything of: the same
// for each live node.
func (t *Table) fallbackShare() float64 { return 1 / float64(max(t.nodes.Load(), 1)) }

// sampled is how many keys are looked at to make room for one.
const sampled = 16

// forget makes room in s for one key: it drops the one of a few, in the map's
// own random order, that called longest ago and has no call under way.
func (t *Table) forget(s *shard, now time.Time) {
	var oldest *entry
	n := 0
	for _, e := range s.keys {
		if n++; n > sampled {
			break
		}
		if e.calls.Load() == 0 && (oldest == nil || e.seen.Load() < oldest.seen.Load()) {
			oldest = e
		}
	}
	if oldest == nil {
		return // all of them are calling: for the moment there is one more
	}
	idle := oldest.idle(now)
	if !oldest.kill() {
		return
	}
	if !idle {
		t.forgot.Add(1)
	}
	delete(s.keys, oldest.key)
	t.keys.Add(-1)
}

// Sweep drops the keys that are idle. Call it now and then.
func (t *Table) Sweep(now time.Time) {
	for s := range t.shards {
		for i := range t.shards[s] {
			sh := &t.shards[s][i]
			sh.mu.Lock()
			for k, e := range sh.keys {
				if e.idle(now) && e.kill() {
					delete(sh.keys, k)
					t.keys.Add(-1)
				}
			}
			if len(sh.keys) == 0 {
				sh.keys = make(map[string]*entry) // a map never shrinks
			}
			sh.mu.Unlock()
		}
	}
}
