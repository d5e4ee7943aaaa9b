package bench

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/internal/apisign"
	"tollgate/internal/apisign/signtest"
)

// load runs a load that must be able to run.
func load(t testing.TB, in LoadInput) LoadResult {
	t.Helper()
	r, err := Load(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestLoadMix compares what the clients saw with what the mock answered, call
// by call.
func TestLoadMix(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	chat := url + "/v1/chat/completions"
	r := load(t, LoadInput{Connections: 16, Requests: 1200, Scenarios: []Scenario{
		{Name: "chat", Weight: 4, URL: chat, Body: chatBody},
		{Name: "stream", Weight: 2, URL: chat, Stream: true, Body: streamBody},
		{Name: "responses", Weight: 1, URL: url + "/v1/responses", Stream: true, Body: `{"model":"m","input":"x","stream":true}`},
		{Name: "head", Weight: 1, Method: "HEAD", URL: url + "/x"},
		{Name: "503", Weight: 1, URL: chat, Body: chatBody, Headers: []string{"X-Mock-Status: 503"}},
		{Name: "404 chunked", Weight: 1, URL: url + "/x", Headers: []string{"X-Mock-Status: 404", "X-Mock-Chunked: 1"}},
		{Name: "204 after 103", Weight: 1, URL: url + "/x", Headers: []string{"X-Mock-Status: 204", "X-Mock-1xx: 103"}},
		{Name: "broken", Weight: 1, URL: chat, Stream: true, Body: streamBody, Headers: []string{"X-Mock-Break: 3"}},
	}})
	s := u.Stats()
	if r.Requests != 1200 || r.OK2xx != s.Total2xx || r.C4xx != s.Total4xx || r.C5xx != s.Total5xx || r.OK2xx != 1000 || r.C4xx != 100 || r.C5xx != 100 {
		t.Errorf("%+v\n%+v", r.Outcome, s)
	}
	if r.Errors != 100 || r.Cut2xx != 100 || r.Classes[failCut] != 100 || r.Unknown != 0 || r.Interims != 100 {
		t.Errorf("%+v", r.Outcome)
	}
	if r.Streams != 400 || r.StreamsComplete != 300 || r.ByName["broken"].StreamsComplete != 0 || r.ByName["responses"].StreamsComplete != 100 {
		t.Errorf("%+v", r.Outcome)
	}
	if got := r.ByName["stream"].Events; got != 200*13 {
		t.Errorf("%d events", got)
	}
	if r.ByName["chat"].Statuses["200"] != 400 || r.P50us <= 0 || r.P50us > r.P99us || r.P99us > r.MaxUs || r.RPS <= 0 || r.Scenario != "closed" {
		t.Errorf("%+v", r)
	}
}

// TestLoadStreams tells complete streams from others.
func TestLoadStreams(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	chat := url + "/v1/chat/completions"
	scenario := func(name string, headers ...string) Scenario {
		return Scenario{Name: name, URL: chat, Stream: true, Body: streamBody, Headers: headers}
	}
	r := load(t, LoadInput{Requests: 6, Scenarios: []Scenario{
		scenario("complete", "X-Mock-Split: 1"),
		scenario("crlf", "X-Mock-Quirk: crlf,nospace,keepalive"),
		scenario("without its end", "X-Mock-Quirk: no_done"),
		scenario("with an error", "X-Mock-Quirk: error_midstream"),
		{Name: "none", URL: chat, Stream: true, Body: chatBody},
		{Name: "refused", URL: chat, Stream: true, Body: streamBody, Headers: []string{"X-Mock-Status: 500"}},
	}})
	if r.Streams != 5 || r.StreamsComplete != 2 || r.StreamsFailed != 1 || r.StreamsUnstarted != 1 || r.Errors != 0 || r.Scenario != "stream" {
		t.Errorf("%+v", r.Outcome)
	}
}

// TestLoadErrors puts every failure in its class.
func TestLoadErrors(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		s       Scenario
		class   string
		unknown int64
	}{
		{Scenario{Name: "nobody there", URL: "http://" + closed.Addr().String()}, failDial, 0},
		{Scenario{Name: "closed", URL: url, Headers: []string{"X-Mock-Break: start"}}, failClosed, 3},
		{Scenario{Name: "reset", URL: url, Headers: []string{"X-Mock-Break: start;rst"}}, failReset, 3},
		{Scenario{Name: "cut", URL: url, Headers: []string{"X-Mock-Break: 5"}}, failCut, 0},
		{Scenario{Name: "slow", URL: url, Headers: []string{"X-Mock-Latency: 1h"}}, failTimeout, 3},
		{Scenario{Name: "slow within", URL: url + "/v1/chat/completions", Body: streamBody, Headers: []string{"X-Mock-Chunk-Delay: 1h"}}, failTimeout, 0},
		{Scenario{Name: "no http", URL: speak(t, "hello\r\n\r\n")}, failMalformed, 3},
		{Scenario{Name: "bad length", URL: speak(t, "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")}, failMalformed, 0},
		{Scenario{Name: "bad chunk", URL: speak(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")}, failMalformed, 0},
		{Scenario{Name: "bad header", URL: speak(t, "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n")}, failMalformed, 0},
		{Scenario{Name: "https to http", URL: strings.Replace(url, "http", "https", 1)}, failDial, 0},
	} {
		in := LoadInput{Requests: 3, Connections: 1, Timeout: 200 * time.Millisecond, Scenarios: []Scenario{tt.s}}
		if tt.class != failTimeout {
			in.Timeout = 10 * time.Second
		}
		r := load(t, in)
		if r.Errors != 3 || r.Classes[tt.class] != 3 || r.Unknown != tt.unknown || r.Requests != 3 {
			t.Errorf("%s: %+v", tt.s.Name, r.Outcome)
		}
	}
}

// speak answers every connection with text and closes it, after it has read a
// request's head.
func speak(t *testing.T, text string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var b [4096]byte
			if _, err := c.Read(b[:]); err == nil {
				_, _ = c.Write([]byte(text)) // the client reports what it got
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return "http://" + ln.Addr().String()
}

// TestLoadToEnd reads an answer that ends with its connection.
func TestLoadToEnd(t *testing.T) {
	t.Parallel()
	r := load(t, LoadInput{Requests: 2, Scenarios: []Scenario{{Name: "a", URL: speak(t, "HTTP/1.1 200 OK\r\n\r\nhello")}}})
	if r.OK2xx != 2 || r.Bytes != 10 || r.Errors != 0 {
		t.Errorf("%+v", r.Outcome)
	}
}

// TestLoadCanceled: the end of the context wakes calls that wait and calls
// that are not due yet.
func TestLoadCanceled(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for u.Stats().Active < 2 {
			<-time.After(time.Millisecond)
		}
		cancel()
	}()
	r, err := Load(ctx, LoadInput{Connections: 2, Requests: 5, Scenarios: []Scenario{
		{Name: "slow", URL: url, Headers: []string{"X-Mock-Latency: 1h"}},
	}})
	if err != nil || r.Requests != 2 || r.Classes[failCanceled] != 2 {
		t.Errorf("%v %+v", err, r.Outcome)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	r, err = Load(ctx, LoadInput{Connections: 2, Requests: 5, Rate: 0.0001, Scenarios: []Scenario{{Name: "never due", URL: url}}})
	if err != nil || r.Requests > 1 {
		t.Errorf("%v %+v", err, r.Outcome)
	}
}

// TestLoadOpen holds the open loop to its promise: a stall of the server shows
// in every call it delayed, not only in the one that was under way.
func TestLoadOpen(t *testing.T) {
	t.Parallel()
	stalling := func() string {
		var n atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 100 {
				<-time.After(300 * time.Millisecond)
			}
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	in := LoadInput{Connections: 1, Requests: 600, Scenarios: []Scenario{{Name: "a", URL: stalling()}}}
	closed := load(t, in)
	in.Scenarios[0].URL, in.Rate = stalling(), 1000
	open := load(t, in)
	if open.Requests != 600 || open.OK2xx != 600 || open.Scenario != "open" {
		t.Errorf("%+v", open)
	}
	if closed.MaxUs < 300_000 || open.MaxUs < 300_000 {
		t.Errorf("the stall does not show: closed %d µs, open %d µs", closed.MaxUs, open.MaxUs)
	}
	// Of 600 calls 300 were due during the stall: half of those, a quarter of
	// all, waited 150 ms or more. The closed loop shows one.
	if open.Late < 200 || open.P90us < 100_000 || closed.P90us > open.P90us/2 {
		t.Errorf("open: late %d, p90 %d µs; closed: p90 %d µs", open.Late, open.P90us, closed.P90us)
	}
	if open.ElapsedS < 0.59 {
		t.Errorf("600 calls at 1000/s took %v s", open.ElapsedS)
	}
}

// TestLoadEnds: duration, and warm-up.
func TestLoadEnds(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	scenario := []Scenario{{Name: "a", URL: url}}
	r := load(t, LoadInput{Connections: 2, Duration: 100 * time.Millisecond, Scenarios: scenario})
	if r.Requests < 2 || r.ElapsedS < 0.1 || r.OK2xx != r.Requests {
		t.Errorf("%+v", r)
	}
	r = load(t, LoadInput{Connections: 2, Duration: 50 * time.Millisecond, Warmup: time.Hour, Scenarios: scenario})
	if r.OK2xx == 0 || r.P50us != 0 || r.RPS != 0 {
		t.Errorf("all was warm-up: %+v", r)
	}
	r = load(t, LoadInput{Connections: 2, Duration: 100 * time.Millisecond, Rate: 100, Scenarios: scenario})
	if r.Requests != 10 {
		t.Errorf("100/s for 100 ms made %d calls", r.Requests)
	}
}

// TestLoadAuth sends every kind of credential to a server that checks it.
func TestLoadAuth(t *testing.T) {
	t.Parallel()
	const key, secret = "testAppKey0123456789abcdef", "testAppSecret-9876543210"
	signed := signtest.New(t, key, secret)
	target := signed.URL + "/天气/a b?b=2&a=1&q=x%2Fy"
	var nonces atomic.Int64
	seen := make(map[string]bool)
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ok := r.Header.Get("Authorization") == "Bearer sk-1" || r.Header.Get("X-Apig-AppCode") == "code-1"
		if auth := r.Header.Get("Authorization"); strings.HasPrefix(auth, apisign.Algorithm) {
			ok = !seen[auth] && strings.Contains(auth, "x-sdk-nonce") // one connection: no lock needed
			seen[auth] = true
			nonces.Add(1)
		}
		w.Header().Set("X-Tollgate-Charged", "token=46;basis=upstream")
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(other.Close)
	r := load(t, LoadInput{Requests: 60, Scenarios: []Scenario{
		{Name: "signature", URL: target, Auth: Auth{Kind: AuthSignature, Key: key, Secret: secret}},
		{Name: "signature, post", URL: target, Body: "{}", Auth: Auth{Kind: AuthSignature, Key: key, Secret: secret}},
		{Name: "signature, unique", URL: target, Auth: Auth{Kind: AuthSignature, Key: key, Secret: secret, Unique: true}},
		{Name: "signature, unique, https", URL: other.URL, Auth: Auth{Kind: AuthSignature, Key: key, Secret: secret, Unique: true}},
		{Name: "api key", URL: other.URL, Auth: Auth{Kind: AuthAPIKey, Key: "sk-1"}},
		{Name: "appcode", URL: other.URL + "/x", Auth: Auth{Kind: AuthAppCode, Key: "code-1"}},
	}})
	if r.OK2xx != 60 || nonces.Load() != 10 || r.Charged["token"] != 46*30 {
		t.Errorf("%+v\n%v", r, signed.LastError())
	}
	r = load(t, LoadInput{Requests: 2, Scenarios: []Scenario{
		{Name: "wrong secret", URL: target, Auth: Auth{Kind: AuthSignature, Key: key, Secret: "x"}},
		{Name: "wrong key", URL: other.URL, Auth: Auth{Kind: AuthAPIKey, Key: "sk-2"}},
	}})
	if r.C4xx != 2 {
		t.Errorf("%+v", r.Outcome)
	}
	r = load(t, LoadInput{Requests: 1, VerifyTLS: true, Scenarios: []Scenario{{Name: "unknown certificate", URL: other.URL}}})
	if r.Classes[failDial] != 1 {
		t.Errorf("%+v", r.Outcome)
	}
}

func TestLoadInput(t *testing.T) {
	t.Parallel()
	good := Scenario{Name: "a", URL: "http://h/"}
	with := func(change func(*Scenario)) LoadInput {
		s := good
		change(&s)
		return LoadInput{Requests: 1, Scenarios: []Scenario{s}}
	}
	for want, in := range map[string]LoadInput{
		"no scenario":       {Requests: 1},
		"no end":            {Scenarios: []Scenario{good}},
		"two scenarios":     {Requests: 1, Scenarios: []Scenario{good, good}},
		"negative":          {Requests: -1, Scenarios: []Scenario{good}},
		"needs a name":      with(func(s *Scenario) { s.Name = "" }),
		"begin with http":   with(func(s *Scenario) { s.URL = "h" }),
		"url":               with(func(s *Scenario) { s.URL = "http://h/%zz" }),
		"weight":            with(func(s *Scenario) { s.Weight = -1 }),
		"1000000":           with(func(s *Scenario) { s.Weight = 2_000_000 }),
		"Name: value":       with(func(s *Scenario) { s.Headers = []string{"x"} }),
		"needs a key":       with(func(s *Scenario) { s.Auth.Kind = AuthAPIKey }),
		"an AppKey and":     with(func(s *Scenario) { s.Auth = Auth{Kind: AuthSignature, Key: "k"} }),
		"apikey, appcode":   with(func(s *Scenario) { s.Auth.Kind = "basic" }),
		"Access must be an": with(func(s *Scenario) { s.Auth = Auth{Kind: AuthSignature, Key: "a b", Secret: "s"} }),
	} {
		if _, err := Load(t.Context(), in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestLoadJSON holds the names the contract fixes (design section 5).
func TestLoadJSON(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(LoadResult{})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"scenario", "rps", "p50_us", "p99_us", "p999_us", "errors", "ok_2xx", "by_scenario"} {
		if _, ok := m[name]; !ok {
			t.Errorf("no %s in %s", name, b)
		}
	}
}
