package metering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// backend is a usage store as this suite sees it. Every implementation runs
// the same suite.
type backend interface {
	Sink
	ByRequest(ctx context.Context, id ids.Request) (usage.Record, error)
	Query(ctx context.Context, in QueryInput) (Result, error)
	List(ctx context.Context, in ListInput) (Page, error)
	Prune(ctx context.Context) (int64, error)
}

// suiteRetention is the retention every backend of the suite is opened with.
const suiteRetention = 400 * 24 * time.Hour

// noon is the suite's present.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// call returns a counted record n seconds after noon of the day before.
func call(n int) usage.Record {
	at := noon.Add(-24*time.Hour + time.Duration(n)*time.Second)
	r := usage.Record{
		ID: ids.NewRequest(at), Time: at, Finished: at.Add(40 * time.Millisecond), Node: "gw-1",
		Account: "ACC1", Subscription: "SUB1", Product: "PRD1", API: "chat.completions", Model: "demo-chat",
		Credential: "KEY1", Region: "cn-north-4", Auth: usage.AuthAPIKey, Rule: usage.Meter3,
		Basis: usage.BasisUpstream, Flags: usage.Counted, Status: 200,
		Cached: 3, Reasoning: 2, BytesIn: 100, BytesOut: 1000, Total: 40 * time.Millisecond,
		Charges: []usage.Charge{{Lot: "LOT1", Unit: usage.Token, Amount: 8}, {Lot: "LOT2", Unit: usage.Token, Amount: 2}},
	}
	r.Units[usage.Token], r.Units[usage.InputToken], r.Units[usage.OutputToken] = 12, 10, 2
	r.Overrun[usage.Token] = 2
	return r
}

// runSuite proves that open's store keeps the contract of this package. Each
// test gets an empty store.
func runSuite(t *testing.T, open func(t *testing.T) backend) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, b backend)
	}{
		{"insert is idempotent (METER-12)", suiteIdempotent},
		{"a provisional record is superseded", suiteProvisional},
		{"a failed batch leaves nothing", suiteAtomic},
		{"every field comes back", suiteFields},
		{"groups", suiteGroups},
		{"time series in zones", suiteSeries},
		{"filters", suiteFilters},
		{"boundaries of a time", suiteBoundaries},
		{"pages are stable", suitePages},
		{"input is checked", suiteInput},
		{"retention", suiteRetentionPrune},
		{"sums equal a plain model", suiteModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open(t))
		})
	}
}

func mustInsert(t *testing.T, b backend, recs ...usage.Record) {
	t.Helper()
	if err := b.Insert(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
}

func mustQuery(t *testing.T, b backend, in QueryInput) Result {
	t.Helper()
	if in.From.IsZero() {
		in.From, in.To = noon.AddDate(-2, 0, 0), noon.AddDate(2, 0, 0)
	}
	res, err := b.Query(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func suiteIdempotent(t *testing.T, b backend) {
	a, c := call(1), call(2)
	mustInsert(t, b, a, c, a) // within one batch
	mustInsert(t, b, c)       // in another
	mustInsert(t, b, a, c)    // the batch again
	changed := a
	changed.Units[usage.Token] = 9999
	mustInsert(t, b, changed) // the first final record stays
	res := mustQuery(t, b, QueryInput{})
	want := Totals{
		Calls: 2, Counted: 2, Cached: 6, Reasoning: 4, BytesIn: 200, BytesOut: 2000, Time: 80 * time.Millisecond,
		Units:   usage.Units{usage.Token: 24, usage.InputToken: 20, usage.OutputToken: 4},
		Charged: usage.Units{usage.Token: 20}, Overrun: usage.Units{usage.Token: 4},
	}
	if diff := cmp.Diff(want, res.Total); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if !res.AsOf.Equal(c.Finished) {
		t.Fatalf("as of %s, want %s", res.AsOf, c.Finished)
	}
	if err := b.Insert(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func suiteProvisional(t *testing.T, b backend) {
	final := call(1)
	part := func(tokens int64, after time.Duration) usage.Record {
		r := final
		r.Flags |= usage.Provisional
		r.Units = usage.Units{usage.Token: tokens}
		r.Overrun = usage.Units{}
		r.Charges = []usage.Charge{{Lot: "LOT1", Unit: usage.Token, Amount: tokens}}
		r.Finished = final.Time.Add(after)
		return r
	}
	see := func(want int64) {
		t.Helper()
		if got := mustQuery(t, b, QueryInput{}).Total; got.Calls != 1 || got.Units[usage.Token] != want {
			t.Fatalf("%d calls with %d tokens, want 1 with %d", got.Calls, got.Units[usage.Token], want)
		}
		page, err := b.List(t.Context(), ListInput{From: noon.AddDate(0, 0, -2), To: noon})
		if err != nil || len(page.Records) != 1 || page.Records[0].Units[usage.Token] != want {
			t.Fatalf("list = %v, %v", page, err)
		}
	}
	mustInsert(t, b, part(1, time.Millisecond))
	see(1)
	mustInsert(t, b, part(5, 5*time.Millisecond))
	see(5)
	mustInsert(t, b, part(1, time.Millisecond)) // an old one comes again
	see(5)
	moved := final
	moved.Time = final.Time.Add(time.Millisecond) // the final one is placed anew
	mustInsert(t, b, part(6, 6*time.Millisecond), moved, part(7, time.Hour))
	see(12)
	mustInsert(t, b, part(5, 5*time.Millisecond))
	see(12)
	got, err := b.ByRequest(t.Context(), final.ID)
	if err != nil || got.Has(usage.Provisional) {
		t.Fatalf("record = %+v, %v", got, err)
	}
}

func suiteAtomic(t *testing.T, b backend) {
	bad := call(2)
	bad.ID = ids.Request{}
	if err := b.Insert(t.Context(), []usage.Record{call(1), bad}); !errors.Is(err, ErrInput) {
		t.Fatalf("error %v, want ErrInput", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Insert(ctx, []usage.Record{call(3)}); err == nil {
		t.Fatal("an insert under a cancelled context was confirmed")
	}
	if n := mustQuery(t, b, QueryInput{}).Total.Calls; n != 0 {
		t.Fatalf("%d calls stored, want 0", n)
	}
}

func suiteFields(t *testing.T, b backend) {
	want := call(1)
	want.Application, want.Reason = "APP1", "upstream_broke"
	want.Flags |= usage.Streamed | usage.Incomplete | usage.ClientGone
	want.FirstByte, want.Upstream = 3*time.Millisecond, 39*time.Millisecond
	mustInsert(t, b, want, call(2))
	got, err := b.ByRequest(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if _, err := b.ByRequest(t.Context(), ids.NewRequest(noon)); !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
}

func suiteGroups(t *testing.T, b backend) {
	var recs []usage.Record
	for i := range 10 {
		r := call(i)
		if i < 3 {
			r.Credential, r.API, r.Model, r.Status, r.Flags = "KEY2", "embeddings", "", 503, 0
			r.Charges, r.Basis, r.Application, r.Node = nil, usage.BasisNone, "APP", "gw-2"
		}
		recs = append(recs, r)
	}
	mustInsert(t, b, recs...)
	keys := func(by GroupBy, top int) []string {
		res := mustQuery(t, b, QueryInput{GroupBy: by, Top: top})
		var list []string
		for _, r := range res.Rows {
			list = append(list, fmt.Sprintf("%s=%d/%d/%d", r.Key, r.Calls, r.Counted, r.Errors))
		}
		if res.Total.Calls != 10 || res.Total.Counted != 7 || res.Total.Errors != 3 {
			t.Errorf("%s: total %+v", by, res.Total)
		}
		return list
	}
	for by, want := range map[GroupBy][]string{
		GroupNone: nil, "": nil,
		GroupKey: {"KEY1=7/7/0", "KEY2=3/0/3"}, GroupAPI: {"chat.completions=7/7/0", "embeddings=3/0/3"},
		GroupModel: {"demo-chat=7/7/0", "=3/0/3"}, GroupStatus: {"200=7/7/0", "503=3/0/3"},
		GroupBasis: {"upstream=7/7/0", "none=3/0/3"}, GroupApplication: {"=7/7/0", "APP=3/0/3"},
		GroupNode: {"gw-1=7/7/0", "gw-2=3/0/3"}, GroupAccount: {"ACC1=10/7/3"}, GroupSubscription: {"SUB1=10/7/3"},
		GroupProduct: {"PRD1=10/7/3"}, GroupRegion: {"cn-north-4=10/7/3"},
	} {
		if diff := cmp.Diff(want, keys(by, 0)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", by, diff)
		}
	}
	if got := keys(GroupKey, 1); !slices.Equal(got, []string{"KEY1=7/7/0"}) {
		t.Errorf("top 1 = %v", got)
	}
}

func suiteSeries(t *testing.T, b backend) {
	zone := func(name string) *time.Location {
		l, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	at := func(text string) usage.Record {
		r := call(0)
		var err error
		if r.Time, err = time.Parse(time.RFC3339, text); err != nil {
			t.Fatal(err)
		}
		r.ID = ids.NewRequest(r.Time)
		return r
	}
	mustInsert(t, b,
		at("2026-10-24T15:59:59.999Z"), at("2026-10-24T16:00:00Z"), // the day turns in Shanghai
		at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"), // 02:30 twice in Berlin
		at("2026-10-25T18:29:59Z"), at("2026-10-25T18:30:00Z"), // the day turns in Kolkata
	)
	f := func(by GroupBy, zone *time.Location, want ...string) {
		t.Helper()
		res := mustQuery(t, b, QueryInput{From: noon.AddDate(0, -2, 0), To: noon, GroupBy: by, Zone: zone})
		var got []string
		for _, r := range res.Rows {
			got = append(got, fmt.Sprintf("%s=%d", r.Key, r.Calls))
			if r.Start.Format(time.RFC3339) != r.Key {
				t.Errorf("row %s starts %s", r.Key, r.Start)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s in %v = %v, want %v", by, zone, got, want)
		}
	}
	f(GroupDay, nil, "2026-10-24T00:00:00Z=2", "2026-10-25T00:00:00Z=4")
	f(GroupDay, zone("Asia/Shanghai"), "2026-10-24T00:00:00+08:00=1", "2026-10-25T00:00:00+08:00=3", "2026-10-26T00:00:00+08:00=2")
	f(GroupDay, zone("Asia/Kolkata"), "2026-10-24T00:00:00+05:30=2", "2026-10-25T00:00:00+05:30=3", "2026-10-26T00:00:00+05:30=1")
	f(GroupHour, zone("Europe/Berlin"), "2026-10-24T17:00:00+02:00=1", "2026-10-24T18:00:00+02:00=1",
		"2026-10-25T02:00:00+02:00=1", "2026-10-25T02:00:00+01:00=1", "2026-10-25T19:00:00+01:00=2")
	f(GroupHour, zone("Asia/Kolkata"), "2026-10-24T21:00:00+05:30=2", "2026-10-25T06:00:00+05:30=1",
		"2026-10-25T07:00:00+05:30=1", "2026-10-25T23:00:00+05:30=1", "2026-10-26T00:00:00+05:30=1")
}

func suiteFilters(t *testing.T, b backend) {
	base := call(0)
	vary := []func(r *usage.Record){
		func(*usage.Record) {},
		func(r *usage.Record) { r.Account = "ACC2" },
		func(r *usage.Record) { r.Subscription = "SUB2" },
		func(r *usage.Record) { r.Product = "PRD2" },
		func(r *usage.Record) { r.API = "embeddings" },
		func(r *usage.Record) { r.Model = "x' OR 1=1 --" },
		func(r *usage.Record) { r.Credential = "KEY2" },
		func(r *usage.Record) { r.Application = "APP2" },
		func(r *usage.Record) { r.Region = "eu" },
		func(r *usage.Record) { r.Node = "gw-2" },
		func(r *usage.Record) { r.Status = 299 },
		func(r *usage.Record) { r.Status = 429; r.Flags = 0 },
		func(r *usage.Record) { r.Basis = usage.BasisEstimated },
	}
	for i, f := range vary {
		r := base
		r.ID, r.BytesIn = ids.NewRequest(base.Time), 1<<i
		f(&r)
		mustInsert(t, b, r)
	}
	yes, no := true, false
	const all = 1<<13 - 1
	f := func(filter Filter, want int64) {
		t.Helper()
		if got := mustQuery(t, b, QueryInput{Filter: filter}).Total.BytesIn; got != want {
			t.Errorf("%+v: records %b, want %b", filter, got, want)
		}
		page, err := b.List(t.Context(), ListInput{From: noon.AddDate(-1, 0, 0), To: noon, Filter: filter})
		if err != nil {
			t.Fatal(err)
		}
		var got int64
		for _, r := range page.Records {
			got += r.BytesIn
		}
		if got != want {
			t.Errorf("%+v: list of %b, want %b", filter, got, want)
		}
	}
	f(Filter{}, all)
	f(Filter{Accounts: []string{"ACC2"}}, 1<<1)
	f(Filter{Accounts: []string{"ACC1", "ACC2"}}, all)
	f(Filter{Accounts: []string{"nobody"}}, 0)
	f(Filter{Subscriptions: []string{"SUB2"}}, 1<<2)
	f(Filter{Products: []string{"PRD2"}}, 1<<3)
	f(Filter{APIs: []string{"embeddings"}}, 1<<4)
	f(Filter{Models: []string{"x' OR 1=1 --"}}, 1<<5)
	f(Filter{Credentials: []string{"KEY2"}}, 1<<6)
	f(Filter{Applications: []string{"APP2"}}, 1<<7)
	f(Filter{Applications: []string{""}}, all-1<<7)
	f(Filter{Regions: []string{"eu"}}, 1<<8)
	f(Filter{Nodes: []string{"gw-2"}}, 1<<9)
	f(Filter{Statuses: []int{299, 429}}, 1<<10|1<<11)
	f(Filter{StatusClasses: []int{2}}, all-1<<11)
	f(Filter{StatusClasses: []int{4, 5}}, 1<<11)
	f(Filter{Counted: &yes}, all-1<<11)
	f(Filter{Counted: &no}, 1<<11)
	f(Filter{Bases: []usage.Basis{usage.BasisEstimated}}, 1<<12)
	f(Filter{Accounts: []string{"ACC1"}, StatusClasses: []int{2}, Models: []string{"demo-chat"}, Regions: []string{"eu"}}, 1<<8)
}

func suiteBoundaries(t *testing.T, b backend) {
	r := call(0)
	mustInsert(t, b, r)
	ms := time.Millisecond
	for _, c := range []struct {
		from, to time.Time
		want     int64
	}{
		{r.Time, r.Time.Add(ms), 1},                // from is in
		{r.Time.Add(-ms), r.Time, 0},               // to is not
		{r.Time.Add(ms), r.Time.Add(2 * ms), 0},    // after
		{r.Time.Add(-time.Hour), r.Time.Add(1), 1}, // within the millisecond
	} {
		if got := mustQuery(t, b, QueryInput{From: c.from, To: c.to}).Total.Calls; got != c.want {
			t.Errorf("[%s, %s) has %d calls, want %d", c.from, c.to, got, c.want)
		}
	}
}

func suitePages(t *testing.T, b backend) {
	var want []ids.Request
	for i := range 25 {
		r := call(i / 3) // several in one instant
		mustInsert(t, b, r)
		want = append(want, r.ID)
	}
	slices.SortFunc(want, func(a, b ids.Request) int { return slices.Compare(b[:], a[:]) })
	var got []ids.Request
	in := ListInput{From: noon.AddDate(0, 0, -2), To: noon, Limit: 4}
	for n := 0; ; n++ {
		page, err := b.List(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Records {
			got = append(got, r.ID)
		}
		if page.Next == "" {
			break
		}
		if len(page.Records) != 4 || n > 10 {
			t.Fatalf("page %d holds %d records", n, len(page.Records))
		}
		in.After = page.Next
		mustInsert(t, b, call(3600+n)) // newer ones arrive meanwhile
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func suiteInput(t *testing.T, b backend) {
	good := QueryInput{From: noon, To: noon.Add(time.Hour)}
	for name, in := range map[string]QueryInput{
		"no range":      {},
		"backwards":     {From: noon, To: noon},
		"unknown group": {From: noon, To: noon.Add(1), GroupBy: "colour"},
		"endless":       {From: noon, To: noon.AddDate(2, 0, 0), GroupBy: GroupHour},
		"class":         {From: noon, To: noon.Add(1), Filter: Filter{StatusClasses: []int{0}}},
		"top":           {From: noon, To: noon.Add(1), Top: -1},
		"values":        {From: noon, To: noon.Add(1), Filter: Filter{Accounts: make([]string, maxValues+1)}},
	} {
		if _, err := b.Query(t.Context(), in); !errors.Is(err, ErrInput) {
			t.Errorf("%s: error %v, want ErrInput", name, err)
		}
	}
	if _, err := b.Query(t.Context(), good); err != nil {
		t.Error(err)
	}
	for name, in := range map[string]ListInput{
		"no range": {}, "limit": {From: noon, To: noon.Add(1), Limit: MaxPage + 1},
		"cursor": {From: noon, To: noon.Add(1), After: "abc"},
	} {
		if _, err := b.List(t.Context(), in); !errors.Is(err, ErrInput) {
			t.Errorf("list, %s: error %v, want ErrInput", name, err)
		}
	}
	if err := (&ListInput{After: "abc"}).Validate(); !errors.Is(err, ErrCursor) {
		t.Errorf("error %v, want ErrCursor among the faults", err)
	}
}

func suiteRetentionPrune(t *testing.T, b backend) {
	old, young := call(0), call(0)
	old.Time = noon.Add(-suiteRetention - time.Millisecond)
	young.Time = noon.Add(-suiteRetention)
	old.ID, young.ID = ids.NewRequest(old.Time), ids.NewRequest(young.Time)
	mustInsert(t, b, old, young, call(1))
	if n, err := b.Prune(t.Context()); err != nil || n != 1 {
		t.Fatalf("Prune = %d, %v; want 1", n, err)
	}
	if _, err := b.ByRequest(t.Context(), old.ID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	if _, err := b.ByRequest(t.Context(), young.ID); err != nil {
		t.Fatal(err)
	}
	if n := mustQuery(t, b, QueryInput{}).Total.Calls; n != 2 {
		t.Fatalf("%d calls left, want 2", n)
	}
	if n, err := b.Prune(t.Context()); err != nil || n != 0 {
		t.Fatalf("second Prune = %d, %v; want 0", n, err)
	}
}

// suiteModel compares random batches, sent again and again in any order, with
// sums over a plain map.
func suiteModel(t *testing.T, b backend) {
	rnd := rand.New(rand.NewPCG(1, 2))
	model := map[ids.Request]usage.Record{}
	var recs []usage.Record
	for i := range 400 {
		r := call(rnd.IntN(86400))
		r.Credential = fmt.Sprintf("KEY%d", rnd.IntN(5))
		r.Status = []int{200, 201, 429, 500}[rnd.IntN(4)]
		r.Units[usage.Token] = rnd.Int64N(1000)
		r.Charges = []usage.Charge{{Lot: "L", Unit: usage.Unit(i % int(usage.NumUnits)), Amount: 1 + rnd.Int64N(9)}}
		if r.Status >= 300 {
			r.Flags, r.Charges = 0, nil
		}
		model[r.ID] = r
		recs = append(recs, r)
	}
	for range 12 {
		batch := make([]usage.Record, 100)
		for i := range batch {
			batch[i] = recs[rnd.IntN(len(recs))]
		}
		mustInsert(t, b, batch...)
	}
	mustInsert(t, b, recs...)
	want := map[string]Totals{}
	for _, r := range model {
		sum := want[r.Credential]
		one := Totals{
			Calls: 1, Units: r.Units, Overrun: r.Overrun, Cached: r.Cached, Reasoning: r.Reasoning,
			BytesIn: r.BytesIn, BytesOut: r.BytesOut, Time: r.Total,
		}
		if r.Has(usage.Counted) {
			one.Counted = 1
		}
		if r.Status >= 400 {
			one.Errors = 1
		}
		for u := range usage.NumUnits {
			one.Charged[u] = r.Charged(u)
		}
		sum.Add(&one)
		want[r.Credential] = sum
	}
	got := map[string]Totals{}
	for _, row := range mustQuery(t, b, QueryInput{GroupBy: GroupKey}).Rows {
		got[row.Key] = row.Totals
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}
