package admin

import (
	"context"
	"net/http"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// buckets is what the tests' rating sealed: three buckets of any subscription,
// on 31 October.
type buckets struct{}

func (buckets) Buckets(_ context.Context, sub string, from, to time.Time, after usage.Bucket, limit int) (out []usage.Bucket, err error) {
	at := time.Date(2026, 10, 31, 5, 0, 0, 0, time.UTC)
	for _, b := range []usage.Bucket{
		{Unit: usage.Token, Quantity: 9}, {Unit: usage.Token, Seq: 1, Quantity: -2, Taken: at}, {Unit: usage.Token, Hour: at.Add(time.Hour), Quantity: 4},
	} {
		b.Subscription, b.Sealed = sub, at.Add(2*time.Hour)
		if b.Hour.IsZero() {
			b.Hour = at
		}
		later := after.Hour.IsZero() || b.Hour.After(after.Hour) || b.Hour.Equal(after.Hour) && b.Seq > after.Seq
		if later && !b.Hour.Before(from) && b.Hour.Before(to) && len(out) < limit {
			out = append(out, b)
		}
	}
	return out, nil
}

func TestRating(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/rated")
		sub, token := h.buy(0, g.spec), h.buyers[0].token
		var ids3 []string
		for cursor := ""; ; {
			var page list[wireBucket]
			h.call(token, http.MethodGet, "/subscriptions/"+sub+"/rating?limit=1&cursor="+cursor, nil).want(200).into(&page)
			for _, b := range page.Items {
				ids3 = append(ids3, b.ID)
				if b.Adjustment != (b.Seq > 0) || (b.Charged != nil) != (b.Seq > 0) {
					t.Errorf("%+v", b)
				}
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if len(ids3) != 3 || ids3[1] != sub+".token.2026103105.1" || ids3[2] != sub+".token.2026103106.0" {
			t.Errorf("buckets %v", ids3)
		}
		h.call(token, http.MethodGet, "/subscriptions/"+sub+"/rating?cursor=x", nil).want(422, "INVALID")

		// The calls behind an hour: those that went beyond their packages.
		hour := h.now().Truncate(time.Hour)
		call := func(at time.Time, over int64) usage.Record {
			r := usage.Record{ID: ids.NewRequest(at), Time: at, Finished: at, Account: h.buyers[0].id, Subscription: sub, Product: g.product.ID, Status: 200, Flags: usage.Counted}
			r.Units[usage.Token], r.Overrun[usage.Token] = over+1, over
			return r
		}
		recs := []usage.Record{call(hour, 5), call(hour.Add(time.Minute), 0), call(hour.Add(-time.Millisecond), 3), call(hour.Add(59*time.Minute), 2)}
		h.ok(h.usage.Insert(t.Context(), recs))
		var calls list[wireRatedCall]
		path := "/subscriptions/" + sub + "/rating/requests?hour=" + hour.Add(20*time.Minute).Format(time.RFC3339)
		h.call(token, http.MethodGet, path, nil).want(200).into(&calls)
		if len(calls.Items) != 2 || calls.Items[0].RequestID != recs[3].ID.String() || calls.Items[1].Beyond["token"] != 5 {
			t.Errorf("calls %+v", calls.Items)
		}
		h.call(token, http.MethodGet, path+"&unit=call", nil).want(200).into(&calls)
		if len(calls.Items) != 0 {
			t.Errorf("calls %+v", calls.Items)
		}
	})
}
