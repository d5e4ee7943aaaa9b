package quotatest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// testStacked holds that a subscription may stack many live lots.
func testStacked(t *testing.T, b Backend) {
	t.Run("200 live lots are used in order, to the last unit (PKG-20)", func(t *testing.T) {
		const lots, units = 200, 5
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		stack(t, s, sub, now, lots, units)
		n := engine(t, s, "a", nil)
		for i := range lots * units {
			if err := n.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatalf("call %d: %v", i+1, err)
			}
		}
		if err := n.call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrExhausted) {
			t.Errorf("after the last unit: %v, want ErrExhausted", err)
		}
		for i, r := range n.records {
			if want := stackedID(i / units); len(r.Charges) != 1 || r.Charges[0].Lot != want {
				t.Fatalf("call %d is charged as %+v, want lot %s", i+1, r.Charges, want)
			}
		}
		if syncs := n.Stats().Syncs; syncs > lots*units/4 {
			t.Errorf("%d reports for %d calls over %d lots", syncs, lots*units, lots)
		}
		bal := balance(t, s, sub, n)
		for i := range lots {
			if f := of(bal, stackedID(i)); f != (figures{Granted: units, Used: units}) {
				t.Fatalf("lot %s: %+v", stackedID(i), f)
			}
		}
	})
}

func stackedID(i int) string { return fmt.Sprintf("L%05d", i) }

// stack grants n lots in no order, of which the one with the lower number ends
// earlier.
func stack(t testing.TB, s quota.Store, sub string, now time.Time, n int, units int64) {
	t.Helper()
	grants := make([]lot.Grant, n)
	for i := range grants {
		grants[i] = grant(sub, stackedID(i), usage.Call, units, now)
		grants[i].Expires = now.Add(24*time.Hour + time.Duration(i)*time.Minute).Truncate(time.Millisecond)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { grants[i], grants[j] = grants[j], grants[i] })
	apply(t, s, grants...)
}
