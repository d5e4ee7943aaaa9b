package ledger

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// Limits in the rules, milliseconds.
const (
	// LateWindow is how long after a period's end calls admitted within it may
	// still draw on it (PKG-26).
	LateWindow = int64(15 * 60 * 1000)
	// ActiveWindow is how long a node counts as active after its last report.
	ActiveWindow = int64(10 * 1000)
	// SkewLimit is the difference of clocks beyond which nothing expires.
	SkewLimit = int64(5 * 1000)
	// RecallGap is the least time between two recalls of a subscription.
	RecallGap = int64(10)
)

// Base is the name under which folded incarnations are kept.
const Base = "base@0"

// Account is the state of one subscription. Maps are keyed by "lot|from" for
// buckets and "incarnation|lot|from" for counters, the same texts the Redis
// store uses as fields.
type Account struct {
	Subscription string               `json:"subscription"`
	Clock        int64                `json:"clock"`            // the largest time seen
	Learn        int64                `json:"learn,omitempty"`  // no new leases before this time
	Recall       int64                `json:"recall,omitempty"` // the last recall
	Run          string               `json:"run,omitempty"`    // identity of the server that wrote last
	Lots         map[string]*Lot      `json:"lots"`
	Buckets      map[string]*Bucket   `json:"buckets"`
	Counters     map[string]*Counter  `json:"counters"`
	Nodes        map[string]*Node     `json:"nodes"`
	Watches      map[string]*Watch    `json:"watches,omitempty"` // by unit
	Folded       map[string]uint64    `json:"folded,omitempty"`  // node -> highest boot folded into Base
	Outbox       []quota.Crossing     `json:"outbox,omitempty"`
	Overrun      map[usage.Unit]int64 `json:"overrun,omitempty"` // of folded incarnations
	order        []openLot            // scratch
}

// Lot is a grant and what is left of its folded periods.
type Lot struct {
	lot.Grant
	FoldedTo      int64 `json:"folded_to,omitempty"` // buckets that start before this are folded
	FoldedPeriods int64 `json:"folded_periods,omitempty"`
	FoldedGranted int64 `json:"folded_granted,omitempty"`
	FoldedUsed    int64 `json:"folded_used,omitempty"`
}

// Bucket is one period of a lot. It exists once something was leased or used.
type Bucket struct {
	Cap  int64 `json:"cap"`           // units of the period
	Used int64 `json:"used"`          // sum over all counters
	Out  int64 `json:"out"`           // sum of what is outstanding
	Min  int64 `json:"min,omitempty"` // known to have been used, from a checkpoint
}

// Counter is what one incarnation reported of one bucket.
type Counter struct {
	Granted  int64 `json:"g"`
	Used     int64 `json:"u"`
	Returned int64 `json:"r"`
}

func (c *Counter) out() int64 { return c.Granted - c.Used - c.Returned }

// The states of an incarnation.
const (
	NodeOpen      = 0
	NodeReclaimed = 1
	NodeFinal     = 2
)

// Node is one incarnation.
type Node struct {
	Deadline int64       `json:"deadline"`
	Seen     int64       `json:"seen"`
	State    int         `json:"state,omitempty"`
	Overrun  usage.Units `json:"overrun"`
}

// Watch is the thresholds of one unit and how each is armed.
type Watch struct {
	Version int64             `json:"version"`
	Levels  []quota.Threshold `json:"levels"`
	Arms    map[string]*Arm   `json:"arms"`
}

// Arm is the state of one threshold.
type Arm struct {
	N     int64 `json:"n"`     // how often it was armed
	Fired bool  `json:"fired"` // below, and told
}

// New returns an empty account.
func New(subscription string) *Account {
	return &Account{
		Subscription: subscription,
		Lots:         map[string]*Lot{},
		Buckets:      map[string]*Bucket{},
		Counters:     map[string]*Counter{},
		Nodes:        map[string]*Node{},
		Watches:      map[string]*Watch{},
		Folded:       map[string]uint64{},
		Overrun:      map[usage.Unit]int64{},
	}
}

// BucketKey returns the key of a bucket.
func BucketKey(lot string, from int64) string { return lot + "|" + strconv.FormatInt(from, 10) }

// CounterKey returns the key of a counter.
func CounterKey(inc, lot string, from int64) string { return inc + "|" + BucketKey(lot, from) }

// SplitBucketKey undoes BucketKey.
func SplitBucketKey(key string) (lot string, from int64) {
	lot, text, _ := strings.Cut(key, "|")
	from, _ = strconv.ParseInt(text, 10, 64)
	return lot, from
}

// SplitCounterKey undoes CounterKey.
func SplitCounterKey(key string) (inc, lot string, from int64) {
	inc, rest, _ := strings.Cut(key, "|")
	lot, from = SplitBucketKey(rest)
	return inc, lot, from
}

// Env is what a step knows of the world.
type Env struct {
	Now int64  // the store's clock, Unix ms
	Run string // identity of the server; a change means a restart or a failover
}

// tick moves the account's clock. A clock that jumped by more than the skew
// limit against the caller's neither expires nor resets anything.
func (a *Account) tick(env Env, caller int64) (now int64, skewed bool) {
	skewed = caller != 0 && abs(env.Now-caller) > SkewLimit
	if !skewed || a.Clock == 0 {
		a.Clock = max(a.Clock, env.Now)
	}
	return a.Clock, skewed
}

func abs(n int64) int64 { return max(n, -n) }

// openLot is a lot that may be drawn on at some instant, with its period.
type openLot struct {
	*Lot
	period quota.Period
	bucket *Bucket
}

// open returns the lots of unit that are open at the instant at, in draw-down
// order (PKG-20): zero price first, then the earliest end, counting the end of
// the current period, then the earliest effective, then the earliest created;
// credit lines after all packages.
func (a *Account) open(unit usage.Unit, at int64) []openLot {
	a.order = a.order[:0]
	for _, l := range a.Lots {
		if l.Unit != unit || !l.openAt(at) {
			continue
		}
		a.order = append(a.order, openLot{Lot: l, period: quota.PeriodAt(&l.Grant, at)})
	}
	slices.SortFunc(a.order, compareOpen)
	for i := range a.order {
		a.order[i].bucket = a.bucketOf(a.order[i].Lot, a.order[i].period)
	}
	return a.order
}

func (l *Lot) openAt(at int64) bool {
	return !l.Void && l.Effective.UnixMilli() <= at && (l.Expires.IsZero() || at < l.Expires.UnixMilli())
}

func compareOpen(x, y openLot) int {
	if c := boolFirst(!x.Overflow, !y.Overflow); c != 0 {
		return c
	}
	if c := boolFirst(x.ZeroPrice, y.ZeroPrice); c != 0 {
		return c
	}
	if c := compareEnds(x.period.To, y.period.To); c != 0 {
		return c
	}
	if c := cmp.Compare(x.Effective.UnixMilli(), y.Effective.UnixMilli()); c != 0 {
		return c
	}
	return strings.Compare(x.ID, y.ID)
}

func boolFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

func compareEnds(x, y int64) int {
	switch {
	case x == y:
		return 0
	case x == 0:
		return 1
	case y == 0 || x < y:
		return -1
	}
	return 1
}

// bucketOf returns the bucket of a lot's period. One that does not exist yet is
// not made, only described.
func (a *Account) bucketOf(l *Lot, p quota.Period) *Bucket {
	if b := a.Buckets[BucketKey(l.ID, p.From)]; b != nil {
		return b
	}
	return &Bucket{Cap: l.Amount}
}

// bucket returns the bucket with that key and makes it when it is missing. Of
// a lot that is not known the cap is 0 until its grant comes.
func (a *Account) bucket(id string, from int64) *Bucket {
	key := BucketKey(id, from)
	b := a.Buckets[key]
	if b == nil {
		b = &Bucket{}
		if l := a.Lots[id]; l != nil {
			b.Cap = l.Amount
		}
		a.Buckets[key] = b
	}
	return b
}

func (b *Bucket) used() int64 { return max(b.Used, b.Min) }

func (b *Bucket) remaining() int64 { return b.Cap - b.used() - b.Out }

// active counts the incarnations seen lately, at least one.
func (a *Account) active(now int64) int64 {
	n := int64(0)
	for _, node := range a.Nodes {
		if node.State == NodeOpen && node.Seen+ActiveWindow > now {
			n++
		}
	}
	return max(n, 1)
}

// ApplyGrant makes g the definition of its lot if it is newer.
func (a *Account) ApplyGrant(env Env, g lot.Grant) bool {
	if !a.define(env, g) {
		return false
	}
	now, _ := a.tick(env, 0)
	if a.Run == "" {
		// Should the first report be lost with its server, the next server is
		// known to be another one.
		a.Run = env.Run
	}
	a.evaluate(now)
	return true
}

// define takes over a newer definition of a lot. The period that is open, and
// later ones, get its amount; a cut cannot take what is used already. Units
// that are out at a cut can still be used: that is overrun then.
func (a *Account) define(env Env, g lot.Grant) bool {
	l := a.Lots[g.ID]
	switch {
	case l == nil:
		a.Lots[g.ID] = &Lot{Grant: g}
	case g.Version <= l.Version:
		return false
	default:
		l.Grant = g
	}
	current := quota.PeriodAt(&g, env.Now).From
	for key, b := range a.Buckets {
		// Without a definition before, nodes reported on it before its grant
		// came back.
		if id, from := SplitBucketKey(key); id == g.ID && (l == nil || from >= current) {
			b.Cap = max(g.Amount, b.used())
		}
	}
	return true
}

// Restore applies g after the state was lost, with what is known to have been
// used, and closes new leases for learn milliseconds.
func (a *Account) Restore(env Env, g lot.Grant, floor []quota.Floor, learn int64) {
	now, _ := a.tick(env, 0)
	a.define(env, g)
	if a.Run == "" {
		a.Run = env.Run
	}
	for _, f := range floor {
		b := a.bucket(g.ID, quota.PeriodAt(&g, f.From).From)
		b.Min = max(b.Min, f.Used)
	}
	a.Learn = max(a.Learn, now+learn)
	a.evaluate(now)
}

// Clone returns a deep copy.
func (a *Account) Clone() *Account {
	c := *a
	c.order = nil
	c.Lots = clonePtrs(a.Lots)
	c.Buckets = clonePtrs(a.Buckets)
	c.Counters = clonePtrs(a.Counters)
	c.Nodes = clonePtrs(a.Nodes)
	c.Watches = clonePtrs(a.Watches)
	for _, w := range c.Watches {
		w.Arms = clonePtrs(w.Arms)
		w.Levels = slices.Clone(w.Levels)
	}
	c.Folded = maps.Clone(a.Folded)
	c.Overrun = maps.Clone(a.Overrun)
	c.Outbox = slices.Clone(a.Outbox)
	return &c
}

func clonePtrs[V any](m map[string]*V) map[string]*V {
	c := make(map[string]*V, len(m))
	for k, v := range m {
		w := *v
		c[k] = &w
	}
	return c
}
