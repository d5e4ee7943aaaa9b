package feed

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

func records(n int) []usage.Record {
	at := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	out := make([]usage.Record, n)
	for i := range out {
		out[i] = usage.Record{
			ID: ids.NewRequest(at), Time: at, Finished: at.Add(time.Second), Node: "n", Account: strings.Repeat("a", 200), Product: strings.Repeat("p", 200),
			Status: 200, Flags: usage.Counted, Units: usage.Units{usage.Call: 1}, Charges: []usage.Charge{{Lot: "L", Unit: usage.Call, Amount: 1, Bucket: int64(i)}},
		}
	}
	return out
}

func TestBatchRoundTrip(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 300} {
		in := records(n)
		body := AppendBatch(nil, in)
		out, err := DecodeBatch(body)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != n || n > 0 && !cmp.Equal(in, out) {
			t.Errorf("%d records became %d: %s", n, len(out), cmp.Diff(in, out))
		}
		if n != 1 {
			continue
		}
		for i := 1; i < len(body); i++ {
			if _, err := DecodeBatch(body[:i]); !errors.Is(err, ErrBatch) {
				t.Errorf("cut at %d: %v", i, err)
			}
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add([]byte{})
	f.Add(AppendBatch(nil, records(2)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := DecodeBatch(body)
		if err != nil {
			if !errors.Is(err, ErrBatch) || out != nil {
				t.Fatalf("%d records, %v", len(out), err)
			}
			return
		}
		again, err := DecodeBatch(AppendBatch(nil, out))
		if err != nil || len(again) != len(out) {
			t.Fatalf("encoded again: %d of %d records, %v", len(again), len(out), err)
		}
	})
}

func TestLargeBatchesAreSplit(t *testing.T) {
	t.Parallel()
	var got []usage.Record
	requests, refuse := 0, false
	sink, err := NewUsageSink(Config{AdminURL: "http://a.example.com", Secret: secret, Client: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		if err := Verify(r, body, secret, time.Now()); err != nil {
			t.Error(err)
		}
		if len(body) > maxBatch+4096 {
			t.Errorf("a request of %d bytes", len(body))
		}
		if refuse {
			return reply(503, []byte(`{"code":"UNAVAILABLE","detail":"later"}`))
		}
		requests++
		part, err := DecodeBatch(body)
		got = append(got, part...)
		if err != nil {
			t.Error(err)
		}
		return reply(204, nil)
	})}})
	if err != nil {
		t.Fatal(err)
	}
	in := records(12_000) // about 480 bytes each
	if err := sink.Insert(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	sameCall := func(a, b usage.Record) bool { return a.ID == b.ID }
	if requests < 2 || !slices.EqualFunc(in, got, sameCall) {
		t.Errorf("%d records came in %d requests", len(got), requests)
	}
	requests, got = 0, nil
	body := AppendBatch(nil, in)
	if err := sink.InsertEncoded(t.Context(), body); err != nil {
		t.Fatal(err)
	}
	if requests < 2 || !slices.EqualFunc(in, got, sameCall) {
		t.Errorf("%d encoded records came in %d requests", len(got), requests)
	}
	if err := sink.InsertEncoded(t.Context(), bytes.Repeat([]byte{0xff}, 2*maxBatch)); !errors.Is(err, ErrBatch) {
		t.Errorf("a damaged batch: %v", err)
	}
	refuse = true
	if err := sink.InsertEncoded(t.Context(), AppendBatch(nil, in[:1])); err == nil || !strings.Contains(err.Error(), "UNAVAILABLE") {
		t.Errorf("InsertEncoded = %v", err)
	}
	if err := sink.Insert(t.Context(), in[:1]); err == nil || !strings.Contains(err.Error(), "UNAVAILABLE") {
		t.Errorf("Insert = %v", err)
	}
	if err := sink.Insert(t.Context(), nil); err != nil {
		t.Errorf("nothing to send: %v", err)
	}
}
