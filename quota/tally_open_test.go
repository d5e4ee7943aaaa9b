package quota

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// under is a record of a stream under way.
func under(id byte, units int64, flags usage.Flags) *usage.Record {
	r := &usage.Record{
		ID: ids.Request{id}, Time: time.UnixMilli(int64(id)).UTC(), Subscription: "S", Model: "m", Basis: usage.BasisCounted,
		Flags: usage.Counted | usage.Streamed | flags, Status: 200,
		Charges: []usage.Charge{{Lot: "L", Unit: usage.Token, Amount: units, Bucket: 7}},
	}
	r.Units[usage.Token] = units + 1
	r.Overrun[usage.Token] = 1
	return r
}

// reread is the tally as the next start reads it.
func reread(t *testing.T, sum *Tally) *Tally {
	t.Helper()
	text, err := json.Marshal(sum)
	if err != nil {
		t.Fatal(err)
	}
	again := NewTally()
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	return again
}

// closings are what closes the starts before boot, by start.
func closings(sum *Tally, boot uint64) map[uint64]int64 {
	m := map[uint64]int64{}
	for _, req := range sum.closeRequests(Incarnation{Node: "n", Boot: boot}) {
		for _, c := range req.Counters {
			m[req.Incarnation.Boot] += c.Used
		}
		m[req.Incarnation.Boot] += req.Overrun[usage.Token]
	}
	return m
}

// TestOpenCallsEndOnce: a call that was open at a crash is charged to the start
// that served it, once, whether the record that ends it is there or not, and
// wherever the process dies again.
func TestOpenCallsEndOnce(t *testing.T) {
	t.Parallel()
	sum := NewTally()
	sum.Add(1, under(1, 10, usage.Provisional))
	sum.Add(1, under(2, 10, usage.Provisional))
	sum.Add(1, under(1, 20, usage.Provisional))
	sum.Add(1, under(2, 30, 0)) // it came to its end
	sum.Add(2, under(3, 40, usage.Provisional))
	want := map[uint64]int64{1: 21 + 31}
	if d := cmp.Diff(want, closings(sum, 2)); d != "" {
		t.Fatal("the open call is not counted: ", d)
	}
	sum = reread(t, sum)

	list, err := sum.Open(2)
	if err != nil {
		t.Fatal(err)
	}
	end := under(1, 20, usage.Incomplete)
	end.Basis, end.Boot = usage.BasisRecovered, 1
	if d := cmp.Diff([]usage.Record{*end}, list); d != "" {
		t.Fatalf("what ends the call (-want +got):\n%s", d)
	}

	// The start 2 writes it, and every later one reads it.
	var back usage.Record
	if err := usage.DecodeRecord(usage.AppendRecord(nil, end), &back); err != nil {
		t.Fatal(err)
	}
	ended := reread(t, sum)
	ended.Add(2, &back)
	if d := cmp.Diff(want, closings(ended, 2)); d != "" {
		t.Fatal("ended: ", d)
	}
	if list, err := ended.Open(2); len(list) != 0 || err != nil {
		t.Fatalf("it is still open: %v %v", list, err)
	}
	ended.Add(3, &back) // written a second time
	if d := cmp.Diff(want, closings(ended, 2)); d != "" {
		t.Fatal("ended twice: ", d)
	}

	// It could not be written before the start was closed and forgotten: it is
	// counted already.
	late := reread(t, sum)
	late.Forget(2)
	if d := cmp.Diff(map[uint64]int64{}, closings(late, 2)); d != "" {
		t.Fatal("closed again: ", d)
	}
	late = reread(t, late)
	if list, err := late.Open(2); len(list) != 1 || err != nil {
		t.Fatalf("its row would be lost: %v %v", list, err)
	}
	late.Add(2, &back)
	if d := cmp.Diff(map[uint64]int64{}, closings(late, 2)); d != "" {
		t.Fatal("counted again: ", d)
	}
}

// TestOpenOfAnEarlierVersion: a state without the records still ends its calls.
func TestOpenOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	id := ids.NewRequest(time.UnixMilli(5))
	sum := NewTally()
	text := `{"open":[{"request":"` + id.String() + `","boot":1,"subscription":"S","charges":[{"lot":"L","unit":"token","amount":4,"bucket_starts":7}],"overrun":[0,0,0,0,0,0,0]}]}`
	if err := json.Unmarshal([]byte(text), sum); err != nil {
		t.Fatal(err)
	}
	list, err := sum.Open(2)
	if err != nil || len(list) != 1 || list[0].Charged(usage.Token) != 4 || list[0].Subscription != "S" || list[0].ID != id || !list[0].Has(usage.Counted|usage.Incomplete) {
		t.Fatalf("%+v %v", list, err)
	}
}
