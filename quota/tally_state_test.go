package quota

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// TestTallyStateGoesOn proves that a tally of the beginning, written and read
// back, and fed the rest, closes like a tally of the whole: the beginning of a
// journal may be removed.
func TestTallyStateGoesOn(t *testing.T) {
	t.Parallel()
	now := Incarnation{Node: "n", Boot: 9}
	rapid.Check(t, func(t *rapid.T) {
		calls := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 60).Draw(t, "calls")
		cut := rapid.IntRange(0, len(calls)).Draw(t, "cut")
		requests := make([]ids.Request, 10)
		for i := range requests {
			requests[i] = ids.NewRequest(time.UnixMilli(int64(i)))
		}
		whole, part := NewTally(), NewTally()
		for i, c := range calls {
			rec := &usage.Record{
				ID: requests[c], Subscription: rapid.SampledFrom([]string{"A", "B"}).Draw(t, "sub"),
				Charges: []usage.Charge{{Lot: rapid.SampledFrom([]string{"L", "M"}).Draw(t, "lot"), Amount: int64(c + 1), Bucket: int64(c % 2)}},
			}
			rec.Overrun[usage.Token] = int64(c % 3)
			if rapid.Bool().Draw(t, "provisional") {
				rec.Flags |= usage.Provisional
			}
			boot := uint64(1 + c%2)
			whole.Add(boot, rec)
			part.Add(boot, rec)
			if i+1 == cut {
				text, err := json.Marshal(part)
				if err != nil {
					t.Fatal(err)
				}
				part = NewTally()
				if err := json.Unmarshal(text, part); err != nil {
					t.Fatal(err)
				}
			}
		}
		sum := func(tally *Tally) map[string][]Counter {
			m := map[string][]Counter{}
			for _, r := range tally.closeRequests(now) {
				m[r.Incarnation.String()+"/"+r.Subscription] = r.Counters
			}
			return m
		}
		if d := cmp.Diff(sum(whole), sum(part)); d != "" {
			t.Fatal(d)
		}
		part.Forget(9)
		if rest := sum(part); len(rest) != 0 {
			t.Fatalf("forgotten incarnations are closed again: %v", rest)
		}
	})
}
