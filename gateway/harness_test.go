package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/bench"
	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/testkit/wait"
	"tollgate/internal/usage"
)

// ledger is the test's quota: exact, in memory, and strict about how holds are
// resolved.
type ledger struct {
	t  testing.TB
	mu sync.Mutex

	left      map[string]int64 // by subscription
	reserved  map[string]int64 // likewise, tokens that holds have of it
	held      int64
	parts     []usage.Record // provisional
	extendErr error
	freed     int64
	records   []usage.Record
	notes     []usage.Record
	admitErr  error
	settleErr error
	onSettle  func(*usage.Record)
	onAdmit   func()
	onNote    func()
	changed   *sync.Cond
}

func newLedger(t testing.TB) *ledger {
	l := &ledger{t: t, left: make(map[string]int64), reserved: make(map[string]int64)}
	l.changed = sync.NewCond(&l.mu)
	return l
}

func (l *ledger) Admit(sub string, units []usage.Unit, est usage.Units, at time.Time) (gateway.Hold, error) {
	if l.onAdmit != nil {
		l.onAdmit()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.admitErr != nil {
		return nil, l.admitErr
	}
	if l.left[sub] <= 0 {
		return nil, gateway.ErrExhausted
	}
	if units[0] == usage.Call {
		l.left[sub]--
	}
	l.held++
	h := &hold{l: l, sub: sub, units: units}
	h.take(est)
	return h, nil
}

func (l *ledger) Note(rec *usage.Record) {
	if l.onNote != nil {
		l.onNote()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, *rec)
	l.changed.Broadcast()
}

type hold struct {
	l     *ledger
	sub   string
	units []usage.Unit
	has   usage.Units
	done  bool
	freed bool
}

// take reserves up to want of what is left. The caller holds l.mu.
func (h *hold) take(want usage.Units) (got int64) {
	for _, u := range h.units {
		if u != usage.Call {
			n := max(0, min(want[u], h.l.left[h.sub]-h.l.reserved[h.sub]))
			h.has[u] += n
			h.l.reserved[h.sub] += n
			got += n
		}
	}
	return got
}

// give ends the reservation. The caller holds l.mu.
func (h *hold) give() {
	h.done = true
	h.l.held--
	for _, n := range h.has {
		h.l.reserved[h.sub] -= n
	}
}

func (h *hold) Extend(more usage.Units) (usage.Units, error) {
	h.l.mu.Lock()
	defer h.l.mu.Unlock()
	h.touch()
	switch {
	case more == usage.Units{}:
	case h.l.extendErr != nil:
		return usage.Units{}, h.l.extendErr
	case h.take(more) == 0:
		return usage.Units{}, gateway.ErrExhausted
	}
	return h.has, nil
}

func (h *hold) Checkpoint(rec *usage.Record) error {
	h.l.mu.Lock()
	defer h.l.mu.Unlock()
	h.touch()
	if h.l.settleErr != nil {
		return h.l.settleErr
	}
	h.l.parts = append(h.l.parts, *rec)
	return nil
}

// Free implements gateway.Hold: nothing may come after it, and nothing may be
// open then.
func (h *hold) Free() {
	h.l.mu.Lock()
	defer h.l.mu.Unlock()
	h.touch()
	if !h.done {
		h.l.t.Error("an open hold was freed")
	}
	h.freed = true
	h.l.freed++
}

// touch holds that the hold was not freed. The caller holds l.mu.
func (h *hold) touch() {
	if h.freed {
		h.l.t.Error("a hold was used after it was freed")
	}
}

func (h *hold) Settle(rec *usage.Record) error {
	if h.l.onSettle != nil {
		h.l.onSettle(rec)
	}
	h.l.mu.Lock()
	defer h.l.mu.Unlock()
	h.touch()
	if h.done {
		h.l.t.Error("a hold was resolved twice")
		return nil
	}
	h.give()
	if h.l.settleErr != nil {
		return h.l.settleErr
	}
	for _, u := range h.units {
		n := rec.Billable(u)
		rec.Charges = append(rec.Charges, usage.Charge{Lot: "LOT", Unit: u, Amount: n})
		if u != usage.Call {
			h.l.left[h.sub] -= n
		}
	}
	kept := *rec
	kept.Charges = append([]usage.Charge(nil), rec.Charges...)
	h.l.records = append(h.l.records, kept)
	h.l.changed.Broadcast()
	return nil
}

func (h *hold) Release() {
	h.l.mu.Lock()
	defer h.l.mu.Unlock()
	h.touch()
	if h.done {
		h.l.t.Error("a hold was resolved twice")
		return
	}
	h.give()
	if h.units[0] == usage.Call {
		h.l.left[h.sub]++
	}
	h.l.changed.Broadcast()
}

// record waits for the n-th settled record.
func (l *ledger) record(n int) usage.Record {
	l.t.Helper()
	timeout := time.AfterFunc(10*time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.t.Errorf("record %d did not come; %d records, %d held", n, len(l.records), l.held)
		l.records = append(l.records, make([]usage.Record, n+1)...)
		l.changed.Broadcast()
	})
	defer timeout.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.records) <= n {
		l.changed.Wait()
	}
	return l.records[n]
}

// waitHeld waits until n holds are open.
func (l *ledger) waitHeld(n int64) {
	l.t.Helper()
	wait.Until(l.t, patience, "open holds", func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.held != n {
			return fmt.Errorf("%d holds are open, want %d", l.held, n)
		}
		return nil
	})
}

// idle waits until no hold is open.
func (l *ledger) idle() {
	l.t.Helper()
	expired := false
	timeout := time.AfterFunc(10*time.Second, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		expired = true
		l.changed.Broadcast()
	})
	defer timeout.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.held > 0 && !expired {
		l.changed.Wait()
	}
	if l.held > 0 {
		l.t.Errorf("%d holds are still open", l.held)
	}
}

// volatile is what differs between two answers of the mock.
var volatile = regexp.MustCompile(`("(?:id|created|created_at|item_id)":)(?:"[^"]*"|\d+)`)

const (
	pepper     = "test pepper"
	callKey    = "sk-calls-0123456789"
	tokenKey   = "sk-tokens-0123456789"
	appKey     = "0123456789abcdef0123456789abcdef"
	appSecret  = "test-secret-0123456789"
	appCode    = "code0123456789012345678901234567890123456789012345678901234567890"
	callInfer  = "11111111-1111-4111-8111-111111111111"
	tokenInfer = "22222222-2222-4222-8222-222222222222"
)

// snapshot is the directory of the tests: two LLM products, one API product.
func snapshot(upstreamURL string) *directory.Snapshot {
	hash := func(s string) []byte { return directory.Hash([]byte(pepper), s) }
	llm := func(id, infer string) directory.Product {
		return directory.Product{
			ID: id, Kind: directory.KindLLM, Name: id, Seller: "seller", InferID: infer,
			Models:      []directory.Model{{Name: "demo-chat"}, {Name: "alias", Upstream: "demo-chat"}},
			Upstreams:   []directory.Upstream{{ID: "u-" + id, URL: upstreamURL + "/v1"}},
			ForwardMock: true,
		}
	}
	return &directory.Snapshot{
		Version: 1, Pepper: []byte(pepper),
		Products: []directory.Product{
			llm("P-CALL", callInfer), llm("P-TOKEN", tokenInfer),
			{
				ID: "P-API", Kind: directory.KindAPI, Path: "/demo/weather", SimpleAuth: true, ForwardMock: true,
				Upstreams: []directory.Upstream{{ID: "u-api", URL: upstreamURL}},
			},
			{
				ID: "P-SIGNED", Kind: directory.KindAPI, Path: "/signed", ForwardMock: true,
				Upstreams: []directory.Upstream{{ID: "u-signed", URL: upstreamURL}},
			},
		},
		Subscriptions: []directory.Subscription{
			{ID: "S-CALL", Account: "BUYER", Product: "P-CALL", Mode: directory.ModePerCall, State: directory.SubscriptionActive, Units: []usage.Unit{usage.Call}},
			{ID: "S-TOKEN", Account: "BUYER", Product: "P-TOKEN", Mode: directory.ModeUsedUpStop, State: directory.SubscriptionActive, Units: []usage.Unit{usage.Token}},
			{ID: "S-API", Account: "BUYER", Product: "P-API", Mode: directory.ModePerCall, State: directory.SubscriptionActive, Units: []usage.Unit{usage.Call}},
			{ID: "S-SIGNED", Account: "BUYER", Product: "P-SIGNED", Mode: directory.ModePerCall, State: directory.SubscriptionActive, Units: []usage.Unit{usage.Call}},
		},
		Applications: []directory.Application{{ID: "APP", Account: "BUYER", Name: "MARKETPLACE_APP", Bound: []string{"P-API", "P-SIGNED"}}},
		AppKeys:      []directory.AppKey{{ID: "AK", Application: "APP", Key: appKey, Secret: appSecret}},
		AppCodes:     []directory.AppCode{{ID: "AC", Application: "APP", Hash: hash(appCode)}},
		APIKeys: []directory.APIKey{
			{ID: "K-CALL", Account: "BUYER", Hash: hash(callKey), Products: []string{"P-CALL"}},
			{ID: "K-TOKEN", Account: "BUYER", Hash: hash(tokenKey), Products: []string{"P-TOKEN"}},
		},
	}
}

// fixture is a gateway between a test and an upstream.
type fixture struct {
	*ledger
	gateway *gateway.Gateway
	mock    *bench.Upstream
	url     string // http://127.0.0.1:port
	addr    string
	reg     *prometheus.Registry
	client  *http.Client
	logs    *logBuffer
	mockURL string
}

// logBuffer keeps what was logged, at every level.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a gateway over the mock upstream. change edits the configuration
// and the directory before they are used.
func start(t testing.TB, change func(*gateway.Config, *directory.Snapshot)) *fixture {
	t.Helper()
	mock := bench.NewUpstream(bench.UpstreamConfig{})
	upURL, err := mock.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mock.Close() })
	f := startAt(t, upURL, change)
	f.mock, f.mockURL = mock, upURL
	return f
}

// startAt runs a gateway over the upstream at upURL.
func startAt(t testing.TB, upURL string, change func(*gateway.Config, *directory.Snapshot)) *fixture {
	t.Helper()
	cfg := gateway.Config{RecordFailed: true, Node: "test", PlainAppCode: true}
	snap := snapshot(upURL)
	if change != nil {
		change(&cfg, snap)
	}
	f := serve(t, cfg)
	for _, s := range snap.Subscriptions {
		f.left[s.ID] = 1 << 40
	}
	if err := f.gateway.Swap(snap); err != nil {
		t.Fatal(err)
	}
	return f
}

// startEmpty runs a gateway without a directory.
func startEmpty(t testing.TB) *fixture {
	t.Helper()
	return serve(t, gateway.Config{Node: "test"})
}

func serve(t testing.TB, cfg gateway.Config) *fixture {
	t.Helper()
	l := newLedger(t)
	reg := prometheus.NewRegistry()
	logs := &logBuffer{}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), logs), &slog.HandlerOptions{Level: slog.LevelDebug}))
	g := gateway.New(cfg, gateway.Deps{Admitter: l, Recorder: l, Log: log, Metrics: reg})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(ln) }()
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		<-done
		l.idle()
	})
	return &fixture{
		ledger: l, gateway: g, url: "http://" + ln.Addr().String(), addr: ln.Addr().String(), reg: reg, logs: logs,
		client: &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// reply is an answer read whole.
type reply struct {
	*http.Response
	body string
}

// do sends one request; header pairs follow the body.
func (f *fixture) do(method, path, body string, header ...string) reply {
	f.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, f.url+path, r)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return f.send(req)
}

func (f *fixture) send(req *http.Request) reply {
	f.t.Helper()
	resp, err := f.client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatalf("%s %s: read the answer: %v", req.Method, req.URL, err)
	}
	return reply{resp, string(b)}
}

// chat calls the chat endpoint of the per-call product.
func (f *fixture) chat(body string, header ...string) reply {
	f.t.Helper()
	return f.do("POST", "/v1/infers/"+callInfer+"/v1/chat/completions", body,
		append([]string{"Authorization", "Bearer " + callKey, "Content-Type", "application/json"}, header...)...)
}
