package admin

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
	"tollgate/internal/feed"
	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

const feedSecret = "the feed secret of the tests"

// feedServer serves the admin role on a real port.
func feedServer(h *harness) *httptest.Server {
	h.t.Helper()
	srv := httptest.NewServer(h)
	h.t.Cleanup(srv.Close)
	return srv
}

func TestFeedBringsEveryChange(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		srv := feedServer(h)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		file := filepath.Join(t.TempDir(), "directory.sealed")
		cfg := feed.Config{AdminURL: srv.URL + "/", Secret: feedSecret, File: file, Now: h.now}
		src, err := feed.NewSource(cfg)
		h.ok(err)
		first, err := src.Next(ctx, 0)
		h.ok(err)
		got := make(chan *directory.Snapshot, 1)
		go func() {
			next, err := src.Next(ctx, first.Version)
			if err != nil {
				t.Error(err)
			}
			got <- next
		}()
		g := h.apiProduct(0, "/fed")
		next := <-got
		want := h.snapshot(0)
		for next != nil && next.Version < want.Version {
			next, err = src.Next(ctx, next.Version)
			h.ok(err)
		}
		if next == nil || next.Products[0].ID != g.product.ID || next.Products[0].Upstreams[0].Headers[0].Value != "upstream-secret-value" {
			t.Fatalf("the feed brought %+v", next)
		}

		// The file is for this user only, holds nothing readable, and serves a
		// start while the admin role is away.
		st, err := os.Stat(file)
		h.ok(err)
		raw, err := os.ReadFile(file)
		h.ok(err)
		if st.Mode().Perm() != 0o600 || bytes.Contains(raw, []byte("upstream-secret-value")) || bytes.Contains(raw, []byte(g.product.ID)) {
			t.Errorf("mode %o, %d bytes", st.Mode().Perm(), len(raw))
		}
		srv.Close()
		again, err := feed.NewSource(cfg)
		h.ok(err)
		kept, err := again.Next(ctx, 0)
		h.ok(err)
		if d := cmp.Diff(next, kept); d != "" {
			t.Error(d)
		}
		if _, err := again.Next(ctx, kept.Version); err == nil {
			t.Error("the admin role is away, and nobody was told")
		}
	})
}

func TestFeedWantsTheSecret(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	srv := feedServer(h)
	src, err := feed.NewSource(feed.Config{AdminURL: srv.URL, Secret: "another", Now: h.now})
	h.ok(err)
	if _, err := src.Next(t.Context(), 0); !errors.Is(err, feed.ErrProof) {
		t.Errorf("another secret: %v", err)
	}
	src, err = feed.NewSource(feed.Config{AdminURL: srv.URL, Secret: feedSecret, Now: func() time.Time { return h.now().Add(-feed.Skew - time.Second) }})
	h.ok(err)
	if _, err := src.Next(t.Context(), 0); !errors.Is(err, feed.ErrSkew) {
		t.Errorf("a clock that is wrong: %v", err)
	}
	sink, err := feed.NewUsageSink(feed.Config{AdminURL: srv.URL, Secret: "another", Now: h.now})
	h.ok(err)
	if err := sink.Insert(t.Context(), []usage.Record{{ID: ids.NewRequest(h.now()), Time: h.now()}}); !errors.Is(err, feed.ErrProof) {
		t.Errorf("records under another secret: %v", err)
	}
	for _, token := range []string{"", h.operator, feedSecret} { // not the secret itself, nor a token
		for _, path := range []string{feed.DirectoryPath + "?since=0", feed.UsagePath} {
			method := http.MethodGet
			if path == feed.UsagePath {
				method = http.MethodPost
			}
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(""))
			r.Header.Set("Authorization", "Bearer "+token)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != 401 {
				t.Errorf("%s %s = %d", method, path, w.Code)
			}
		}
	}

	// Without a secret there is no feed.
	off := &harness{t: t, clock: h.clock, logs: &logs{}, lots: h.lots}
	off.open(sqliteOptions(t), Config{})
	off.cfg.FeedSecret = ""
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, feed.DirectoryPath+"?since=0", nil)
	h.ok(feed.Sign(r, nil, "x", h.now()))
	w := httptest.NewRecorder()
	off.ServeHTTP(w, r)
	if w.Code != 503 || !strings.Contains(w.Body.String(), "TOLLGATE_FEED_SECRET") {
		t.Errorf("feed without a secret = %d %s", w.Code, w.Body)
	}
}

func TestFeedKeepsRecordsOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	srv := feedServer(h)
	sink, err := feed.NewUsageSink(feed.Config{AdminURL: srv.URL, Secret: feedSecret, Now: h.now})
	h.ok(err)
	var records []usage.Record
	for i := range 500 {
		records = append(records, usage.Record{
			ID: ids.NewRequest(h.now()), Time: h.now(), Finished: h.now(), Node: "far", Account: "A", Subscription: "S", Product: "P",
			Status: 200, Flags: usage.Counted, Units: usage.Units{usage.Call: 1, usage.Token: int64(i)},
		})
	}
	for range 2 { // METER-12
		h.ok(sink.Insert(t.Context(), records))
	}
	res, err := h.usage.Query(t.Context(), metering.QueryInput{From: h.now().Add(-time.Hour), To: h.now().Add(time.Hour)})
	h.ok(err)
	if res.Total.Calls != 500 || res.Total.Units[usage.Token] != 499*500/2 {
		t.Errorf("kept %+v", res.Total)
	}
	got, err := h.usage.ByRequest(t.Context(), records[7].ID)
	h.ok(err)
	if d := cmp.Diff(records[7], got); d != "" {
		t.Error(d)
	}

	// A batch that was tampered with, or is damaged, keeps nothing.
	fresh := []usage.Record{{ID: ids.NewRequest(h.now()), Time: h.now()}}
	body := feed.AppendBatch(nil, fresh)
	post := func(sign, send []byte) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, feed.UsagePath, bytes.NewReader(send))
		h.ok(feed.Sign(r, sign, feedSecret, h.now()))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	tampered := bytes.Clone(body)
	tampered[len(tampered)-1] ^= 1
	if got := post(body, tampered); got != 401 {
		t.Errorf("tampered body = %d", got)
	}
	if got := post(body[:len(body)-1], body[:len(body)-1]); got != 400 {
		t.Errorf("cut body = %d", got)
	}
	if _, err := h.usage.ByRequest(t.Context(), fresh[0].ID); !errors.Is(err, metering.ErrNotFound) {
		t.Errorf("a refused record was kept: %v", err)
	}
	if got := post(body, body); got != 204 {
		t.Errorf("good body = %d", got)
	}
	h.cfg.MaxUsageBody = int64(len(body)) - 1
	if got := post(body, body); got != 413 {
		t.Errorf("large body = %d", got)
	}
}

func TestFeedDirectoryAnswers(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	get := func(ctx context.Context, since string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, feed.DirectoryPath+"?since="+since, nil)
		h.ok(feed.Sign(r, nil, feedSecret, h.now()))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := get(t.Context(), "x"); w.Code != 422 {
		t.Errorf("since=x = %d %s", w.Code, w.Body)
	}
	w := get(t.Context(), "0")
	snap, err := directory.Open(w.Body.Bytes(), feedSecret)
	h.ok(err)
	if w.Code != 200 || w.Header().Get(feed.VersionHeader) != strconv.FormatInt(snap.Version, 10) {
		t.Errorf("%d, version header %q, snapshot %d", w.Code, w.Header().Get(feed.VersionHeader), snap.Version)
	}
	// A gateway that leaves ends its wait.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { get(ctx, strconv.FormatInt(snap.Version, 10)); close(done) }()
	cancel()
	<-done
	// So does a process that stops: the gateway is told to ask again.
	stopped := make(chan int)
	go func() { stopped <- get(t.Context(), strconv.FormatInt(snap.Version, 10)).Code }()
	h.Close()
	if code := <-stopped; code != 204 {
		t.Errorf("a stopping process answered %d", code)
	}
}
