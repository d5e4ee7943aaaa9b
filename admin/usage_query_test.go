package admin

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// spread stores n calls of two buyers to two sellers' products, a minute apart.
func spread(t *testing.T, h *harness, n int) (products [2]string) {
	t.Helper()
	products = [2]string{h.apiProduct(0, "/a").product.ID, h.apiProduct(1, "/b").product.ID}
	var recs []usage.Record
	for i := range n {
		at := h.now().Add(-time.Duration(i+1) * time.Minute)
		recs = append(recs, usage.Record{
			ID: ids.NewRequest(at), Time: at, Finished: at.Add(time.Second), Account: h.buyers[i%2].id, Product: products[i/2%2], Subscription: fmt.Sprint("SUB", i%4),
			API: "/a", Model: "=cmd|' /C calc'!A0", Credential: fmt.Sprint("KEY", i%3), Region: "cn-north-4", Node: "n1", Status: []int{200, 200, 200, 500}[i%4], Flags: usage.Counted,
			Basis: usage.BasisUpstream, Units: usage.Units{usage.Call: 1}, Charges: []usage.Charge{{Lot: "L", Unit: usage.Call, Amount: 1}}, Total: time.Duration(i+1) * time.Millisecond,
		})
	}
	h.ok(h.usage.Insert(t.Context(), recs))
	return products
}

// TestUsageIsWhatTheActorMaySee sums the same calls as each role sees them, by
// figures, by pages and by exports.
func TestUsageIsWhatTheActorMaySee(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		products := spread(t, h, 100)
		count := func(token, query string) (figures, listed, exported int64) {
			t.Helper()
			var out wireFigures
			h.call(token, http.MethodGet, "/usage?"+query, nil).want(200).into(&out)
			for cursor := ""; ; {
				var page wireRecords
				h.call(token, http.MethodGet, "/usage/requests?limit=7&cursor="+url.QueryEscape(cursor)+"&"+query, nil).want(200).into(&page)
				listed += int64(len(page.Items))
				if cursor = page.Next; cursor == "" {
					break
				}
			}
			lines, err := csv.NewReader(bytes.NewReader(h.call(token, http.MethodGet, "/usage/export?"+query, nil).want(200).raw)).ReadAll()
			h.ok(err)
			return out.Total.Requests, listed, int64(len(lines) - 1)
		}
		for _, c := range []struct {
			who, token, query string
			want              int64
		}{
			{"operator", h.operator, "", 100},
			{"operator, one buyer", h.operator, "account_id=" + h.buyers[0].id, 50},
			{"operator, either buyer", h.operator, "account_id=" + h.buyers[0].id + "&account_id=" + h.buyers[1].id, 100},
			{"buyer 0", h.buyers[0].token, "", 50},
			{"buyer 0, a product", h.buyers[0].token, "product_id=" + products[0], 25},
			{"buyer 1, the other's subscription", h.buyers[1].token, "subscription_id=SUB0", 0},
			{"seller 0", h.sellers[0].token, "", 50},
			{"seller 0, a buyer", h.sellers[0].token, "account_id=" + h.buyers[0].id, 25},
			{"seller 1", h.sellers[1].token, "", 50},
			{"class", h.operator, "status_class=5", 25},
			{"status", h.operator, "status=500&status=404", 25},
			{"key", h.operator, "credential_id=KEY0", 34},
			{"model", h.operator, "model=" + url.QueryEscape("=cmd|' /C calc'!A0") + "&region=cn-north-4&basis=upstream&counted=true", 100},
			{"uncharged", h.operator, "counted=false", 0},
			{"time", h.operator, "from=" + url.QueryEscape(h.now().Add(-10*time.Minute).Format(time.RFC3339Nano)), 10},
		} {
			if f, l, e := count(c.token, c.query); f != c.want || l != c.want || e != c.want {
				t.Errorf("%s: %d by figures, %d listed, %d exported, want %d", c.who, f, l, e, c.want)
			}
		}
		h.call(h.sellers[0].token, http.MethodGet, "/usage?product_id="+products[1], nil).want(404)
		h.call(h.buyers[0].token, http.MethodGet, "/usage/export?account_id="+h.buyers[1].id, nil).want(404)
		h.call(h.operator, http.MethodGet, "/usage/requests?cursor=zz", nil).want(422)
		h.call(h.operator, http.MethodGet, "/usage?group_by=minute&from=2020-01-01T00:00:00Z", nil).want(422)
		h.call(h.operator, http.MethodGet, "/usage?zone=Mars/Olympus", nil).want(422)

		var top wireFigures
		h.call(h.operator, http.MethodGet, "/usage?group_by=status&order=errors&top=1&percentiles=true", nil).want(200).into(&top)
		if len(top.Rows) != 1 || top.Rows[0].Group != "500" || top.Rows[0].Errors != 25 || top.Total.Requests != 100 || top.Latency == nil {
			t.Fatalf("top = %+v", top)
		}
		if p := top.Latency.P50; p < 49500 || p > 50500 {
			t.Errorf("median %d µs, want 50000 within 1 %%", p)
		}
		var series wireFigures
		h.call(h.operator, http.MethodGet, "/usage?group_by=hour&zone=Asia/Kolkata", nil).want(200).into(&series)
		var sum int64
		for _, r := range series.Rows {
			sum += r.Requests
			if r.Start == nil || !strings.HasSuffix(r.Group, ":00:00+05:30") {
				t.Errorf("row %s", r.Group)
			}
		}
		if sum != 100 || len(series.Rows) < 2 {
			t.Errorf("%d calls in %d hours", sum, len(series.Rows))
		}
	})
}

func TestUsageExportForms(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		spread(t, h, 2500) // three pages
		from := url.QueryEscape(h.now().AddDate(0, 0, -7).Format(time.RFC3339))
		res := h.call(h.operator, http.MethodGet, "/usage/export?bom=true&zone=Asia/Shanghai&from="+from, nil).want(200)
		text, ok := bytes.CutPrefix(res.raw, []byte("\xef\xbb\xbf"))
		if !ok {
			t.Errorf("begins %q, want a byte order mark", res.raw[:10])
		}
		lines, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
		h.ok(err)
		if len(lines) != 2501 || lines[1][7] != "'=cmd|' /C calc'!A0" || !strings.HasSuffix(lines[1][1], "+08:00") {
			t.Fatalf("%d lines, the first %q", len(lines), lines[1])
		}
		data := h.call(h.operator, http.MethodGet, "/usage/export?format=parquet&from="+from, nil).want(200).raw
		rows, err := parquet.Read[parquetRow](bytes.NewReader(data), int64(len(data)))
		h.ok(err)
		if len(rows) != 2500 || rows[0].Model != "=cmd|' /C calc'!A0" || rows[0].Charged["call"] != 1 || rows[0].RequestID != lines[1][0] {
			t.Fatalf("%d rows, the first %+v", len(rows), rows[0])
		}
	})
}

// brokenList is a usage store whose second page fails.
type brokenList struct {
	UsageReader
	pages int
}

func (b *brokenList) List(ctx context.Context, in metering.ListInput) (metering.Page, error) {
	if b.pages++; b.pages > 1 {
		return metering.Page{}, errors.New("the store went away")
	}
	return b.UsageReader.List(ctx, in)
}

// TestABrokenExportIsCutShort: the client must not take a part for the whole.
func TestABrokenExportIsCutShort(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		spread(t, h, 1500)
		h.Server.deps.Usage = &brokenList{UsageReader: h.usage}
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("recovered %v, want http.ErrAbortHandler", v)
			}
		}()
		h.call(h.operator, http.MethodGet, "/usage/export?from="+url.QueryEscape(h.now().AddDate(0, 0, -7).Format(time.RFC3339)), nil)
		t.Error("the answer ended as if it were whole")
	})
}

func TestGuard(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "gpt": "gpt", "=1": "'=1", "+1": "'+1", "-1": "'-1", "@x": "'@x", "\tx": "'\tx", "a=1": "a=1"} {
		if got := guard(text); got != want {
			t.Errorf("guard(%q) = %q, want %q", text, got, want)
		}
	}
}
