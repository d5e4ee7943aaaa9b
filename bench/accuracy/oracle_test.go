package accuracy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/bench"
	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

const (
	sub   = "01SUB"
	other = "01OTHER"
)

// testament is what the three witnesses say of one call.
type testament struct {
	client *bench.Reply
	stream bool
	mock   int    // status; 0: it never answered
	tokens int64  // the mock reported
	record int64  // units in the journal; 0: none
	owner  string // of the record; empty: sub
	draft  bool   // the record is provisional
}

// TestWhatMustBeCharged holds the oracle's judgement of single calls.
func TestWhatMustBeCharged(t *testing.T) {
	t.Parallel()
	ok := func(class string) *bench.Reply {
		return &bench.Reply{Status: 200, Complete: class == "", Class: class, Events: 1}
	}
	for _, tt := range []struct {
		name  string
		calls []testament
		unit  usage.Unit
		exact bool
		want  expectation
	}{
		{name: "seen and charged", calls: []testament{{client: ok(""), mock: 200, record: 1}}, want: expectation{least: 1, most: 1, expected: 1, journal: 1}},
		{name: "seen and not charged", calls: []testament{{client: ok(""), mock: 200}}, want: expectation{least: 1, most: 1, expected: 1, lost: 1}},
		{name: "charged twice", calls: []testament{{client: ok(""), mock: 200, record: 2}}, want: expectation{least: 1, most: 1, expected: 1, journal: 2, excess: 1}},
		{name: "a plain answer cut after its head must be charged", calls: []testament{{client: ok("cut"), mock: 200}}, want: expectation{least: 1, most: 1, expected: 1, lost: 1}},
		{name: "a stream that broke off may be", calls: []testament{{client: ok("cut"), stream: true, mock: 200, record: 1}}, want: expectation{most: 1, expected: 1, journal: 1, uncertain: 1}},
		{name: "or not", calls: []testament{{client: ok("cut"), stream: true, mock: 200}}, want: expectation{most: 1, free: 1}},
		{name: "nobody but the mock knows, charged", calls: []testament{{mock: 200, record: 1}}, want: expectation{most: 1, expected: 1, journal: 1, uncertain: 1}},
		{name: "nobody but the mock knows, not charged", calls: []testament{{mock: 200}}, want: expectation{most: 1}},
		{name: "charged and never answered", calls: []testament{{record: 1}}, want: expectation{journal: 1, excess: 1}},
		{name: "charged for the upstream's error", calls: []testament{{client: &bench.Reply{Status: 500, Complete: true}, mock: 500, record: 1}}, want: expectation{journal: 1, excess: 1}},
		{
			name:  "charged although the client got the gateway's own error",
			calls: []testament{{client: &bench.Reply{Status: 502, Complete: true}, mock: 200, record: 1}}, want: expectation{journal: 1, excess: 1},
		},
		{name: "one lost and one invented do not cancel out", calls: []testament{{client: ok(""), mock: 200}, {record: 1}}, want: expectation{least: 1, most: 1, expected: 1, journal: 1, lost: 1, excess: 1}},
		{name: "a provisional record counts until a final one comes", calls: []testament{{client: ok("cut"), stream: true, mock: 200, record: 1, draft: true}}, want: expectation{most: 1, expected: 1, journal: 1, uncertain: 1}},
		{name: "another subscription's calls", calls: []testament{{mock: 200, record: 1, owner: other}}, want: expectation{}},
		{name: "tokens by the mock's figure", unit: usage.Token, calls: []testament{{client: ok(""), mock: 200, tokens: 46, record: 40}}, want: expectation{least: 46, most: 46, expected: 46, journal: 40, lost: 6}},
		{name: "tokens nobody reported are free", unit: usage.Token, calls: []testament{{client: ok(""), mock: 200}}, want: expectation{}},
		{
			name: "where nothing dies an abandoned stream must be charged", exact: true,
			calls: []testament{{client: ok("left"), stream: true, mock: 200}}, want: expectation{least: 1, most: 1, expected: 1, lost: 1},
		},
		{name: "but not the gateway's own error", exact: true, calls: []testament{{client: &bench.Reply{Status: 502, Complete: true}, mock: 200}}, want: expectation{}},
	} {
		o := newOracle()
		o.exact = tt.exact
		for _, c := range tt.calls {
			o.hear(c, tt.unit)
		}
		if diff := cmp.Diff(tt.want, o.expect(sub, tt.unit, true), cmp.AllowUnexported(expectation{})); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func (o *oracle) hear(c testament, unit usage.Unit) {
	id := ids.NewRequest(time.Now())
	if c.mock != 0 {
		o.answer(bench.Answer{RequestID: id.String(), Status: c.mock})
		o.used(id.String(), c.tokens)
	}
	if c.client != nil {
		c.client.RequestID = id.String()
		o.reply(*c.client, sub, c.stream)
	}
	if c.record != 0 {
		rec := usage.Record{ID: id, Subscription: sub, Flags: usage.Counted, Charges: []usage.Charge{{Lot: "l", Unit: unit, Amount: c.record}}}
		if c.owner != "" {
			rec.Subscription = c.owner
		}
		if c.draft {
			rec.Flags |= usage.Provisional
		}
		o.record(&rec, unit)
		o.record(&rec, unit) // journals are read again and again
	}
}

// TestFinalRecordsReplaceProvisionalOnes holds what a call that was recorded on
// the way is charged.
func TestFinalRecordsReplaceProvisionalOnes(t *testing.T) {
	t.Parallel()
	id := ids.NewRequest(time.Now())
	record := func(n int64, flags usage.Flags) *usage.Record {
		return &usage.Record{ID: id, Subscription: sub, Flags: usage.Counted | flags, Charges: []usage.Charge{{Lot: "l", Unit: usage.Token, Amount: n}}}
	}
	o := newOracle()
	for i, step := range []struct {
		rec  *usage.Record
		want int64
	}{
		{record(10, usage.Provisional), 10},
		{record(20, usage.Provisional), 20},
		{record(25, 0), 25},
		{record(20, usage.Provisional), 25},
		{&usage.Record{ID: id, Subscription: sub}, 25}, // not counted: it charges nothing
	} {
		o.record(step.rec, usage.Token)
		if got := o.expect(sub, usage.Token, true).journal; got != step.want {
			t.Errorf("after record %d the journal says %d, want %d", i, got, step.want)
		}
	}
}

// TestDriftIsTheLargestDistance holds that no figure can hide behind another.
func TestDriftIsTheLargestDistance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		b    books
		want int64
	}{
		{"all agree", books{expectation{expected: 5, journal: 5}, quota{Used: 4, Overrun: 1}, 5, 0}, 0},
		{"the quota store counted less", books{expectation{expected: 5, journal: 5}, quota{Used: 3}, 5, 0}, 2},
		{"usage rows are missing", books{expectation{expected: 5, journal: 5}, quota{Used: 5}, 1, 0}, 4},
		{"the journal holds more", books{expectation{expected: 5, journal: 8}, quota{Used: 5}, 5, 0}, 3},
		{"lost and invented", books{expectation{expected: 5, journal: 5, lost: 1, excess: 1}, quota{Used: 5}, 5, 0}, 2},
	} {
		if got := tt.b.distance(); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
