package quotatest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/ledger"
)

// testModel sends random steps to the store and to the ledger, and compares
// every answer and every figure. It is what holds the scripts to the rules.
func testModel(t *testing.T, b Backend) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) {
			clock := NewClock(start)
			d := &driver{
				t: t, r: rand.New(rand.NewPCG(seed, 1)), clock: clock,
				store: b.Open(t, clock.Now), sub: subscription(t),
				versions: map[string]int64{}, sent: map[string][]*quota.SyncRequest{}, counters: map[string]map[string]quota.Counter{},
			}
			d.model = ledger.New(d.sub)
			for i := range 250 {
				d.step(i)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// driver makes random steps.
type driver struct {
	t        *testing.T
	r        *rand.Rand
	clock    *Clock
	store    quota.Store
	model    *ledger.Account
	sub      string
	versions map[string]int64
	watch    int64
	sent     map[string][]*quota.SyncRequest
	counters map[string]map[string]quota.Counter // what each incarnation knows
}

func (d *driver) env() ledger.Env {
	return ledger.Env{Now: d.clock.Now().UnixMilli(), Run: d.model.Run}
}

func (d *driver) step(i int) {
	switch p := d.r.IntN(100); {
	case i < 3 || p < 8:
		d.grant()
	case p < 12:
		d.thresholds()
	case p < 30:
		d.clock.Advance(time.Duration(d.r.Int64N(int64(20 * time.Minute))))
	case p < 34:
		d.clock.Advance(time.Duration(d.r.Int64N(int64(40 * time.Hour))))
	case p < 40:
		d.closeOne()
	case p < 44:
		d.tend()
	case p < 48:
		d.ack()
	case p < 58:
		d.again()
	default:
		d.sync()
	}
	d.compare()
}

func (d *driver) incarnation() quota.Incarnation {
	return quota.Incarnation{Node: fmt.Sprintf("n%d", d.r.IntN(3)), Boot: uint64(1 + d.r.IntN(4))}
}

func (d *driver) lot() string { return fmt.Sprintf("lot%d", d.r.IntN(7)) }

func (d *driver) grant() {
	id := d.lot()
	d.versions[id] += int64(d.r.IntN(2))
	cycles := []lot.Cycle{lot.Never, lot.Never, lot.Hour, lot.Day, lot.Month}
	// The cycle, the unit and the effective instant of a lot do not change.
	h := rand.New(rand.NewPCG(uint64(hash(id)), 2))
	g := lot.Grant{
		ID: id, Subscription: d.sub, Version: max(1, d.versions[id]),
		Unit:      []usage.Unit{usage.Call, usage.Token}[h.IntN(2)],
		Reset:     cycles[h.IntN(len(cycles))],
		Effective: start.Add(time.Duration(h.IntN(7200)-3600) * time.Second),
		Zone:      []string{"", "America/Sao_Paulo"}[h.IntN(2)],
		ZeroPrice: h.IntN(4) == 0,
		Overflow:  h.IntN(5) == 0,
		Amount:    int64(d.r.IntN(200)),
		Void:      d.r.IntN(12) == 0,
	}
	if h.IntN(2) == 0 {
		g.Expires = g.Effective.Add(time.Duration(1+d.r.IntN(100)) * time.Hour)
	}
	switch h.IntN(4) {
	case 0:
		g.Away = lot.Away{Policy: lot.AwayContinue, Seconds: int64(h.IntN(3)) * 60, Credit: int64(h.IntN(3)) * 10}
	case 1:
		g.Away.Policy = lot.AwayStop
	}
	want := d.model.ApplyGrant(d.env(), g)
	got, err := d.store.ApplyGrant(d.t.Context(), g)
	d.same("grant", err, want, got)
}

func (d *driver) thresholds() {
	d.watch += int64(d.r.IntN(2))
	t := quota.Thresholds{Subscription: d.sub, Unit: usage.Call, Version: max(1, d.watch)}
	for _, l := range []quota.Threshold{{Kind: quota.Percent, Value: 20}, {Kind: quota.Percent, Value: 50}, {Kind: quota.Absolute, Value: 30}, quota.UsedUp} {
		if d.r.IntN(2) == 0 {
			t.Levels = append(t.Levels, l)
		}
	}
	if d.r.IntN(4) == 0 && len(t.Levels) > 0 {
		t.Told = []quota.Told{{Threshold: t.Levels[0], Arm: 1 + d.r.Int64N(4), Rearmed: d.r.IntN(2) == 0}}
	}
	want := d.model.SetThresholds(d.env(), t)
	got, err := d.store.SetThresholds(d.t.Context(), t)
	d.same("thresholds", err, want, got)
}

func (d *driver) closeOne() {
	inc := d.incarnation()
	req := &quota.CloseRequest{Subscription: d.sub, Incarnation: inc, Final: d.r.IntN(2) == 0}
	for _, c := range sortedCounters(d.counters[inc.String()]) {
		if d.r.IntN(2) == 0 {
			c.Used += d.r.Int64N(c.Outstanding() + 1) // a late use
			req.Counters = append(req.Counters, quota.Counter{Lot: c.Lot, From: c.From, Used: c.Used})
			d.counters[inc.String()][ledger.BucketKey(c.Lot, c.From)] = c
		}
	}
	d.model.Close(d.env(), req)
	d.same("close", d.store.CloseIncarnation(d.t.Context(), req), nil, nil)
}

func (d *driver) tend() {
	req := &quota.TendRequest{Subscription: d.sub, Quarantine: time.Minute, Retention: 30 * time.Hour}
	if d.r.IntN(3) == 0 {
		req.By = d.incarnation()
	}
	d.model.Tend(d.env(), req)
	d.same("tend", d.store.Tend(d.t.Context(), req), nil, nil)
}

func (d *driver) ack() {
	if len(d.model.Outbox) == 0 {
		return
	}
	c := d.model.Outbox[d.r.IntN(len(d.model.Outbox))]
	d.model.Ack(map[string]bool{c.ID: true})
	d.same("ack", d.store.Ack(d.t.Context(), c), nil, nil)
}

// sync reports as one node: some of what is out was used, some goes back.
func (d *driver) sync() {
	inc := d.incarnation()
	known := d.counters[inc.String()]
	if known == nil {
		known = map[string]quota.Counter{}
		d.counters[inc.String()] = known
	}
	req := &quota.SyncRequest{
		Subscription: d.sub, Incarnation: inc, Now: d.clock.Now().UnixMilli(),
		TTL: 30 * time.Second, Quarantine: time.Minute,
	}
	switch d.r.IntN(20) {
	case 0:
		req.Now += 3_600_000 // a clock that is wrong
	case 1:
		req.Now = 0
	}
	for _, c := range sortedCounters(known) {
		if out := c.Outstanding(); out > 0 {
			c.Used += d.r.Int64N(out + 1)
			c.Returned += d.r.Int64N(c.Outstanding()+1) / 2
		}
		known[ledger.BucketKey(c.Lot, c.From)] = c
		req.Counters = append(req.Counters, c)
	}
	req.Overrun[usage.Call] = int64(d.r.IntN(5))
	for range d.r.IntN(3) {
		dm := quota.Demand{Unit: []usage.Unit{usage.Call, usage.Token}[d.r.IntN(2)], Floor: d.r.Int64N(60)}
		dm.Target = dm.Floor + d.r.Int64N(60)
		if d.r.IntN(5) == 0 {
			dm.At = req.Now - d.r.Int64N(3_000_000)
		}
		req.Demands = append(req.Demands, dm)
	}
	d.sent[inc.String()] = append(d.sent[inc.String()], req)
	reply := d.send(req)
	if reply == nil || d.r.IntN(6) == 0 {
		return // the answer was lost
	}
	for _, b := range reply.Buckets {
		if b.Granted > 0 {
			known[ledger.BucketKey(b.Lot, b.From)] = b.Counter
		}
	}
}

// again sends an old report once more.
func (d *driver) again() {
	for _, key := range slices.Sorted(keysOf(d.sent)) {
		if d.r.IntN(2) == 0 {
			list := d.sent[key]
			d.send(list[d.r.IntN(len(list))])
			return
		}
	}
}

func (d *driver) send(req *quota.SyncRequest) *quota.SyncReply {
	// The store's run id is not the model's business.
	want, _ := d.model.Sync(d.env(), req)
	got, err := d.store.Sync(d.t.Context(), req)
	if got != nil && want.Closed && want.Active == 0 { // a ghost: nothing else counts
		got.Now, got.Active, got.Skewed = want.Now, 0, false
	}
	d.same(fmt.Sprintf("sync %+v", *req), err, want, got)
	return got
}

func (d *driver) same(what string, err error, want, got any) {
	d.t.Helper()
	if err != nil {
		d.t.Errorf("%s: %v", what, err)
	} else if reflect.DeepEqual(want, got) {
		return // the common case, cheaply
	} else if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		d.t.Errorf("%s: the store differs from the ledger (-ledger +store):\n%s", what, diff)
	}
}

// compare compares everything that can be read.
func (d *driver) compare() {
	d.t.Helper()
	ctx := d.t.Context()
	now := d.clock.Now().UnixMilli()
	got, err := d.store.Read(ctx, d.sub)
	d.same("read", err, d.model.Balance(now), got)
	checkBalance(d.t, got)
	audit, err := d.store.Audit(ctx, d.sub)
	d.same("audit", err, []quota.Difference(nil), audit)
	report, err := d.store.Report(ctx, d.sub)
	d.same("report", err, d.model.Report(), report)
	crossings, err := d.store.Crossings(ctx, 1000)
	want := slices.Clone(d.model.Outbox)
	byID := func(x, y quota.Crossing) int { return cmp.Compare(x.ID, y.ID) }
	slices.SortFunc(want, byID)
	slices.SortFunc(crossings, byID)
	d.same("crossings", err, want, crossings)
}

func sortedCounters(m map[string]quota.Counter) []quota.Counter {
	var out []quota.Counter
	for _, k := range slices.Sorted(keysOf(m)) {
		out = append(out, m[k])
	}
	return out
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
