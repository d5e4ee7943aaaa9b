package metertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// Backend is a usage store as this suite sees it. Every implementation runs
// the same suite.
type Backend interface {
	metering.Sink
	ByRequest(ctx context.Context, id ids.Request) (usage.Record, error)
	Query(ctx context.Context, in metering.QueryInput) (metering.Result, error)
	List(ctx context.Context, in metering.ListInput) (metering.Page, error)
}

// Noon is the suite's present.
var Noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// Call returns a counted record n seconds after noon of the day before.
func Call(n int) usage.Record {
	at := Noon.Add(-24*time.Hour + time.Duration(n)*time.Second)
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

// Run proves that open's store keeps the contract of this package. Each
// test gets an empty store.
func Run(t *testing.T, open func(t *testing.T) Backend) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, b Backend)
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
		{"percentiles", suiteLatency},
		{"order of rows", suiteOrder},
		{"any time equals its calls", suiteRanges},
		{"sums equal a plain model", suiteModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open(t))
		})
	}
}

func MustInsert(t *testing.T, b Backend, recs ...usage.Record) {
	t.Helper()
	if err := b.Insert(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
}

func MustQuery(t *testing.T, b Backend, in metering.QueryInput) metering.Result {
	t.Helper()
	if in.From.IsZero() {
		in.From, in.To = Noon.AddDate(-2, 0, 0), Noon.AddDate(2, 0, 0)
	}
	res, err := b.Query(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func suiteIdempotent(t *testing.T, b Backend) {
	a, c := Call(1), Call(2)
	MustInsert(t, b, a, c, a) // within one batch
	MustInsert(t, b, c)       // in another
	MustInsert(t, b, a, c)    // the batch again
	changed := a
	changed.Units[usage.Token] = 9999
	MustInsert(t, b, changed) // the first final record stays
	res := MustQuery(t, b, metering.QueryInput{})
	want := metering.Totals{
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

func suiteProvisional(t *testing.T, b Backend) {
	final := Call(1)
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
		if got := MustQuery(t, b, metering.QueryInput{}).Total; got.Calls != 1 || got.Units[usage.Token] != want {
			t.Fatalf("%d calls with %d tokens, want 1 with %d", got.Calls, got.Units[usage.Token], want)
		}
		page, err := b.List(t.Context(), metering.ListInput{From: Noon.AddDate(0, 0, -2), To: Noon})
		if err != nil || len(page.Records) != 1 || page.Records[0].Units[usage.Token] != want {
			t.Fatalf("list = %v, %v", page, err)
		}
	}
	MustInsert(t, b, part(1, time.Millisecond))
	see(1)
	MustInsert(t, b, part(5, 5*time.Millisecond))
	see(5)
	MustInsert(t, b, part(1, time.Millisecond)) // an old one comes again
	see(5)
	moved := final
	moved.Time = final.Time.Add(time.Millisecond) // the final one is placed anew
	MustInsert(t, b, part(6, 6*time.Millisecond), moved, part(7, time.Hour))
	see(12)
	MustInsert(t, b, part(5, 5*time.Millisecond))
	see(12)
	got, err := b.ByRequest(t.Context(), final.ID)
	if err != nil || got.Has(usage.Provisional) {
		t.Fatalf("record = %+v, %v", got, err)
	}
}

func suiteAtomic(t *testing.T, b Backend) {
	bad := Call(2)
	bad.ID = ids.Request{}
	if err := b.Insert(t.Context(), []usage.Record{Call(1), bad}); !errors.Is(err, metering.ErrInput) {
		t.Fatalf("error %v, want ErrInput", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Insert(ctx, []usage.Record{Call(3)}); err == nil {
		t.Fatal("an insert under a cancelled context was confirmed")
	}
	if n := MustQuery(t, b, metering.QueryInput{}).Total.Calls; n != 0 {
		t.Fatalf("%d calls stored, want 0", n)
	}
}

func suiteFields(t *testing.T, b Backend) {
	want := Call(1)
	want.Application, want.Reason = "APP1", "upstream_broke"
	want.Flags |= usage.Streamed | usage.Incomplete | usage.ClientGone
	want.FirstByte, want.Upstream = 3*time.Millisecond, 39*time.Millisecond
	MustInsert(t, b, want, Call(2))
	got, err := b.ByRequest(t.Context(), want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if _, err := b.ByRequest(t.Context(), ids.NewRequest(Noon)); !errors.Is(err, metering.ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
}

func suiteGroups(t *testing.T, b Backend) {
	var recs []usage.Record
	for i := range 10 {
		r := Call(i)
		if i < 3 {
			r.Credential, r.API, r.Model, r.Status, r.Flags = "KEY2", "embeddings", "", 503, 0
			r.Charges, r.Basis, r.Application, r.Node = nil, usage.BasisNone, "APP", "gw-2"
		}
		recs = append(recs, r)
	}
	MustInsert(t, b, recs...)
	keys := func(by metering.GroupBy, top int) []string {
		res := MustQuery(t, b, metering.QueryInput{GroupBy: by, Top: top})
		var list []string
		for _, r := range res.Rows {
			list = append(list, fmt.Sprintf("%s=%d/%d/%d", r.Key, r.Calls, r.Counted, r.Errors))
		}
		if res.Total.Calls != 10 || res.Total.Counted != 7 || res.Total.Errors != 3 {
			t.Errorf("%s: total %+v", by, res.Total)
		}
		return list
	}
	for by, want := range map[metering.GroupBy][]string{
		metering.GroupNone: nil, "": nil,
		metering.GroupKey: {"KEY1=7/7/0", "KEY2=3/0/3"}, metering.GroupAPI: {"chat.completions=7/7/0", "embeddings=3/0/3"},
		metering.GroupModel: {"demo-chat=7/7/0", "=3/0/3"}, metering.GroupStatus: {"200=7/7/0", "503=3/0/3"},
		metering.GroupBasis: {"upstream=7/7/0", "none=3/0/3"}, metering.GroupApplication: {"=7/7/0", "APP=3/0/3"},
		metering.GroupNode: {"gw-1=7/7/0", "gw-2=3/0/3"}, metering.GroupAccount: {"ACC1=10/7/3"}, metering.GroupSubscription: {"SUB1=10/7/3"},
		metering.GroupProduct: {"PRD1=10/7/3"}, metering.GroupRegion: {"cn-north-4=10/7/3"},
	} {
		if diff := cmp.Diff(want, keys(by, 0)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", by, diff)
		}
	}
	if got := keys(metering.GroupKey, 1); !slices.Equal(got, []string{"KEY1=7/7/0"}) {
		t.Errorf("top 1 = %v", got)
	}
}

func suiteSeries(t *testing.T, b Backend) {
	zone := func(name string) *time.Location {
		l, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	at := func(text string) usage.Record {
		r := Call(0)
		var err error
		if r.Time, err = time.Parse(time.RFC3339, text); err != nil {
			t.Fatal(err)
		}
		r.ID = ids.NewRequest(r.Time)
		return r
	}
	MustInsert(t, b,
		at("2026-10-24T15:59:59.999Z"), at("2026-10-24T16:00:00Z"), // the day turns in Shanghai
		at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"), // 02:30 twice in Berlin
		at("2026-10-25T18:29:59Z"), at("2026-10-25T18:30:00Z"), // the day turns in Kolkata
	)
	f := func(by metering.GroupBy, zone *time.Location, want ...string) {
		t.Helper()
		res := MustQuery(t, b, metering.QueryInput{From: Noon.AddDate(0, -2, 0), To: Noon, GroupBy: by, Zone: zone})
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
	f(metering.GroupDay, nil, "2026-10-24T00:00:00Z=2", "2026-10-25T00:00:00Z=4")
	f(metering.GroupDay, zone("Asia/Shanghai"), "2026-10-24T00:00:00+08:00=1", "2026-10-25T00:00:00+08:00=3", "2026-10-26T00:00:00+08:00=2")
	f(metering.GroupDay, zone("Asia/Kolkata"), "2026-10-24T00:00:00+05:30=2", "2026-10-25T00:00:00+05:30=3", "2026-10-26T00:00:00+05:30=1")
	f(metering.GroupHour, zone("Europe/Berlin"), "2026-10-24T17:00:00+02:00=1", "2026-10-24T18:00:00+02:00=1",
		"2026-10-25T02:00:00+02:00=1", "2026-10-25T02:00:00+01:00=1", "2026-10-25T19:00:00+01:00=2")
	f(metering.GroupHour, zone("Asia/Kolkata"), "2026-10-24T21:00:00+05:30=2", "2026-10-25T06:00:00+05:30=1",
		"2026-10-25T07:00:00+05:30=1", "2026-10-25T23:00:00+05:30=1", "2026-10-26T00:00:00+05:30=1")
}

func suiteFilters(t *testing.T, b Backend) {
	base := Call(0)
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
		MustInsert(t, b, r)
	}
	yes, no := true, false
	const all = 1<<13 - 1
	f := func(filter metering.Filter, want int64) {
		t.Helper()
		if got := MustQuery(t, b, metering.QueryInput{Filter: filter}).Total.BytesIn; got != want {
			t.Errorf("%+v: records %b, want %b", filter, got, want)
		}
		page, err := b.List(t.Context(), metering.ListInput{From: Noon.AddDate(-1, 0, 0), To: Noon, Filter: filter})
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
	f(metering.Filter{}, all)
	f(metering.Filter{Accounts: []string{"ACC2"}}, 1<<1)
	f(metering.Filter{Accounts: []string{"ACC1", "ACC2"}}, all)
	f(metering.Filter{Accounts: []string{"nobody"}}, 0)
	f(metering.Filter{Subscriptions: []string{"SUB2"}}, 1<<2)
	f(metering.Filter{Products: []string{"PRD2"}}, 1<<3)
	f(metering.Filter{APIs: []string{"embeddings"}}, 1<<4)
	f(metering.Filter{Models: []string{"x' OR 1=1 --"}}, 1<<5)
	f(metering.Filter{Credentials: []string{"KEY2"}}, 1<<6)
	f(metering.Filter{Applications: []string{"APP2"}}, 1<<7)
	f(metering.Filter{Applications: []string{""}}, all-1<<7)
	f(metering.Filter{Regions: []string{"eu"}}, 1<<8)
	f(metering.Filter{Nodes: []string{"gw-2"}}, 1<<9)
	f(metering.Filter{Statuses: []int{299, 429}}, 1<<10|1<<11)
	f(metering.Filter{StatusClasses: []int{2}}, all-1<<11)
	f(metering.Filter{StatusClasses: []int{4, 5}}, 1<<11)
	f(metering.Filter{Counted: &yes}, all-1<<11)
	f(metering.Filter{Counted: &no}, 1<<11)
	f(metering.Filter{Bases: []usage.Basis{usage.BasisEstimated}}, 1<<12)
	f(metering.Filter{Accounts: []string{"ACC1"}, StatusClasses: []int{2}, Models: []string{"demo-chat"}, Regions: []string{"eu"}}, 1<<8)
}

func suiteBoundaries(t *testing.T, b Backend) {
	r := Call(0)
	MustInsert(t, b, r)
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
		if got := MustQuery(t, b, metering.QueryInput{From: c.from, To: c.to}).Total.Calls; got != c.want {
			t.Errorf("[%s, %s) has %d calls, want %d", c.from, c.to, got, c.want)
		}
	}
}

func suitePages(t *testing.T, b Backend) {
	var want []ids.Request
	for i := range 25 {
		r := Call(i / 3) // several in one instant
		MustInsert(t, b, r)
		want = append(want, r.ID)
	}
	slices.SortFunc(want, func(a, b ids.Request) int { return slices.Compare(b[:], a[:]) })
	var got []ids.Request
	in := metering.ListInput{From: Noon.AddDate(0, 0, -2), To: Noon, Limit: 4}
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
		MustInsert(t, b, Call(3600+n)) // newer ones arrive meanwhile
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func suiteInput(t *testing.T, b Backend) {
	good := metering.QueryInput{From: Noon, To: Noon.Add(time.Hour)}
	for name, in := range map[string]metering.QueryInput{
		"no range":      {},
		"backwards":     {From: Noon, To: Noon},
		"unknown group": {From: Noon, To: Noon.Add(1), GroupBy: "colour"},
		"endless":       {From: Noon, To: Noon.AddDate(2, 0, 0), GroupBy: metering.GroupHour},
		"class":         {From: Noon, To: Noon.Add(1), Filter: metering.Filter{StatusClasses: []int{0}}},
		"top":           {From: Noon, To: Noon.Add(1), Top: -1},
		"values":        {From: Noon, To: Noon.Add(1), Filter: metering.Filter{Accounts: make([]string, 10_001)}},
	} {
		if _, err := b.Query(t.Context(), in); !errors.Is(err, metering.ErrInput) {
			t.Errorf("%s: error %v, want ErrInput", name, err)
		}
	}
	if _, err := b.Query(t.Context(), good); err != nil {
		t.Error(err)
	}
	for name, in := range map[string]metering.ListInput{
		"no range": {}, "limit": {From: Noon, To: Noon.Add(1), Limit: metering.MaxPage + 1},
		"cursor": {From: Noon, To: Noon.Add(1), After: "abc"},
	} {
		if _, err := b.List(t.Context(), in); !errors.Is(err, metering.ErrInput) {
			t.Errorf("list, %s: error %v, want ErrInput", name, err)
		}
	}
	if err := (&metering.ListInput{After: "abc"}).Validate(); !errors.Is(err, metering.ErrCursor) {
		t.Errorf("error %v, want metering.ErrCursor among the faults", err)
	}
}
