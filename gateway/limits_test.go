package gateway_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/gateway/limit"
	"tollgate/internal/directory"
)

const greeting = `{"model":"demo-chat","messages":[{"role":"user","content":"hi"}]}`

// clock is a test's time.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time      { return time.Unix(0, c.at.Load()) }
func (c *clock) add(d time.Duration) { c.at.Add(int64(d)) }

func policy(l directory.Limits) *directory.Policy { return &directory.Policy{Limits: l} }

// TestLimits sends three calls under a limit of two, in every scope: two are
// answered and charged, the third is refused, charged nowhere, and told when to
// come again; then it is admitted.
func TestLimits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		set  func(*gateway.Config, *directory.Snapshot)
	}{
		{"credential", func(_ *gateway.Config, s *directory.Snapshot) {
			s.APIKeys[0].Policy = policy(directory.Limits{RequestsPerMinute: 2})
		}},
		{"credential by default", func(c *gateway.Config, _ *directory.Snapshot) {
			c.Limits.Credential.RequestsPerMinute = 2
		}},
		{"subscription", func(_ *gateway.Config, s *directory.Snapshot) {
			s.Subscriptions[0].Policy = policy(directory.Limits{RequestsPerMinute: 2})
		}},
		{"each subscription of the product", func(_ *gateway.Config, s *directory.Snapshot) {
			s.Products[0].Policy = &directory.Policy{Each: directory.Limits{RequestsPerMinute: 2}}
		}},
		{"product", func(_ *gateway.Config, s *directory.Snapshot) {
			s.Products[0].Policy = policy(directory.Limits{RequestsPerMinute: 2})
		}},
		{"address", func(c *gateway.Config, _ *directory.Snapshot) {
			c.Limits.Address.RequestsPerMinute = 2
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			clk := newClock()
			f := start(t, func(c *gateway.Config, s *directory.Snapshot) {
				c.Now = clk.now
				tc.set(c, s)
			})
			for i, left := range []string{"1", "0"} {
				r := f.chat(greeting)
				if r.StatusCode != 200 || r.Header.Get("X-Ratelimit-Limit-Requests") != "2" || r.Header.Get("X-Ratelimit-Remaining-Requests") != left {
					t.Fatalf("call %d: %d %v", i, r.StatusCode, r.Header)
				}
				if want := []string{"30s", "1m0s"}[i]; r.Header.Get("X-Ratelimit-Reset-Requests") != want {
					t.Errorf("call %d: reset %q, want %s", i, r.Header.Get("X-Ratelimit-Reset-Requests"), want)
				}
			}
			for range 3 {
				r := f.chat(greeting)
				if r.StatusCode != 429 || r.Header.Get("Retry-After") != "30" || r.Header.Get("Retry-After-Ms") != "30000" || r.Header.Get("X-Should-Retry") != "" {
					t.Fatalf("%d %v %s", r.StatusCode, r.Header, r.body)
				}
				e := envelope(t, r.body)
				if e.Error.Code != "rate_limit_exceeded" || e.Error.Type != "requests" || e.ErrorCode != "APIGW.0308" {
					t.Fatalf("%s", r.body)
				}
				if r.Header.Get("X-Ratelimit-Remaining-Requests") != "0" {
					t.Errorf("remaining %q", r.Header.Get("X-Ratelimit-Remaining-Requests"))
				}
			}
			clk.add(30 * time.Second)
			if r := f.chat(greeting); r.StatusCode != 200 {
				t.Fatalf("after the time it was told: %d %s", r.StatusCode, r.body)
			}
			f.idle()
			if n := len(f.records); n != 3 {
				t.Errorf("%d calls were charged, want 3", n)
			}
			if got := f.total("tollgate_rejections_total", "reason", "rate_requests"); got != 3 {
				t.Errorf("%v refusals were counted", got)
			}
		})
	}
}

// TestTokenLimit reserves by estimate and corrects by the upstream's usage.
func TestTokenLimit(t *testing.T) {
	t.Parallel()
	clk := newClock()
	f := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		c.Now = clk.now
		s.APIKeys[1].Policy = policy(directory.Limits{TokensPerMinute: 1000})
	})
	call := func(body string, header ...string) reply {
		return f.do("POST", "/v1/infers/"+tokenInfer+"/v1/chat/completions", body,
			append([]string{"Authorization", "Bearer " + tokenKey, "Content-Type", "application/json"}, header...)...)
	}
	// 512 tokens of output are the estimate, 46 are used.
	for i := range 3 {
		r := call(greeting, "X-Mock-Tokens", "12,34")
		if r.StatusCode != 200 || r.Header.Get("X-Ratelimit-Limit-Tokens") != "1000" {
			t.Fatalf("call %d: %d %v", i, r.StatusCode, r.Header)
		}
	}
	if r := call(greeting, "X-Mock-Status", "500"); r.StatusCode != 500 { // costs no tokens
		t.Fatalf("%d", r.StatusCode)
	}
	// What is left is 862 of 1000: a call that asks for 900 is refused, one for
	// 800 admitted.
	r := call(`{"model":"demo-chat","max_tokens":900,"messages":[{"role":"user","content":"hi"}]}`)
	if r.StatusCode != 429 || envelope(t, r.body).Error.Type != "tokens" || r.Header.Get("X-Ratelimit-Limit-Tokens") != "1000" {
		t.Fatalf("%d %v %s", r.StatusCode, r.Header, r.body)
	}
	ms, err := strconv.Atoi(r.Header.Get("Retry-After-Ms"))
	if err != nil || ms < 2000 || ms > 4000 {
		t.Errorf("retry-after-ms %q, want the time of some 50 tokens", r.Header.Get("Retry-After-Ms"))
	}
	if r := call(`{"model":"demo-chat","max_tokens":800,"messages":[{"role":"user","content":"hi"}]}`, "X-Mock-Tokens", "1,1"); r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
}

// TestConcurrencyLimit holds calls open: no more run at once than the limit
// says, streams included, and each that ends makes room.
func TestConcurrencyLimit(t *testing.T) {
	t.Parallel()
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		s.APIKeys[0].Policy = policy(directory.Limits{Concurrency: 2})
		s.Products[0].OnDisconnect = "cancel" // a call that is read on for its usage is under way
	})
	stream := func() *http.Response {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", f.url+"/v1/infers/"+callInfer+"/v1/chat/completions",
			body(`{"model":"demo-chat","stream":true,"messages":[{"role":"user","content":"hi"}]}`))
		req.Header.Set("Authorization", "Bearer "+callKey)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Mock-Chunks", "100000")
		req.Header.Set("X-Mock-Chunk-Delay", "10ms")
		resp, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	a, b := stream(), stream()
	defer func() { _ = b.Body.Close() }()
	r := f.chat(greeting)
	if a.StatusCode != 200 || b.StatusCode != 200 || r.StatusCode != 429 || r.Header.Get("Retry-After") != "1" {
		t.Fatalf("%d %d %d %v", a.StatusCode, b.StatusCode, r.StatusCode, r.Header)
	}
	_ = a.Body.Close()
	f.eventually("room after a stream was left", func() error {
		if r := f.chat(greeting); r.StatusCode != 200 {
			return fmt.Errorf("%d %s", r.StatusCode, r.body)
		}
		return nil
	})
}

// TestAHotKeyDoesNotStarveOthers fills a node with one key's calls: another
// key's are answered all the time.
func TestAHotKeyDoesNotStarveOthers(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) { c.Limits.MaxCalls = 20 })
	stop := make(chan struct{})
	var hot, shed atomic.Int64
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				switch r := f.chat(greeting, "X-Mock-Latency", "20ms"); r.StatusCode {
				case 200:
					hot.Add(1)
				case 429:
					shed.Add(1)
				default:
					t.Errorf("%d %s", r.StatusCode, r.body)
				}
			}
		})
	}
	f.eventually("the node is full", func() error {
		if shed.Load() < 100 {
			return fmt.Errorf("%d calls were shed", shed.Load())
		}
		return nil
	})
	for i := range 100 {
		r := f.do("POST", "/v1/infers/"+tokenInfer+"/v1/chat/completions", greeting, "Authorization", "Bearer "+tokenKey, "Content-Type", "application/json")
		if r.StatusCode != 200 {
			t.Errorf("call %d of the other key: %d %s", i, r.StatusCode, r.body)
			break
		}
	}
	close(stop)
	wg.Wait()
	if hot.Load() == 0 {
		t.Error("the hot key was not served at all")
	}
}

func TestAddressLists(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		set    func(*gateway.Config, *directory.Snapshot)
		status int
		code   string
	}{
		{"nothing said", func(*gateway.Config, *directory.Snapshot) {}, 200, ""},
		{"denied everywhere", func(c *gateway.Config, _ *directory.Snapshot) { c.Deny = nets("127.0.0.0/8") }, 403, "APIGW.0402"},
		{"another allowed", func(c *gateway.Config, _ *directory.Snapshot) { c.Allow = nets("10.0.0.0/8") }, 403, "APIGW.0402"},
		{"allowed", func(c *gateway.Config, _ *directory.Snapshot) { c.Allow = nets("127.0.0.1/32") }, 200, ""},
		{"denied wins", func(c *gateway.Config, _ *directory.Snapshot) {
			c.Allow, c.Deny = nets("127.0.0.0/8"), nets("127.0.0.1/32")
		}, 403, "APIGW.0402"},
		{"product", func(_ *gateway.Config, s *directory.Snapshot) {
			s.Products[0].Policy = &directory.Policy{Deny: []string{"127.0.0.1"}}
		}, 403, "APIGW.0402"},
		{"key", func(_ *gateway.Config, s *directory.Snapshot) {
			s.APIKeys[0].Policy = &directory.Policy{Allow: []string{"10.0.0.0/8", "::1"}}
		}, 403, "APIGW.0405"},
		{"key allowed", func(_ *gateway.Config, s *directory.Snapshot) {
			s.APIKeys[0].Policy = &directory.Policy{Allow: []string{"::ffff:127.0.0.0/104"}}
		}, 200, ""},
		{"behind a trusted proxy the client counts", func(c *gateway.Config, _ *directory.Snapshot) {
			c.TrustedProxies, c.Deny = nets("127.0.0.0/8"), nets("192.0.2.0/24")
		}, 403, "APIGW.0402"},
		{"an untrusted one is not believed", func(c *gateway.Config, _ *directory.Snapshot) {
			c.Deny = nets("192.0.2.0/24")
		}, 200, ""},
	} {
		f := start(t, tc.set)
		r := f.chat(greeting, "X-Forwarded-For", "10.9.9.9, 192.0.2.7")
		if r.StatusCode != tc.status || tc.code != "" && envelope(t, r.body).ErrorCode != tc.code {
			t.Errorf("%s: %d %s", tc.name, r.StatusCode, r.body)
		}
	}
}

func nets(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestLimitsCountTheRightClient shares one connection's address among clients
// behind a trusted proxy, in both forms.
func TestLimitsCountTheRightClient(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		header    string
		forwarded bool
		first     string // makes two calls
		same      string // is the same client
		other     string // is another
	}{
		{"X-Forwarded-For", false, "192.0.2.1", "6.6.6.6, 192.0.2.1:4711", "192.0.2.2"},
		{"X-Forwarded-For", false, "2001:db8::1", "[2001:db8::2]:80", "2001:db8:0:1::1"},
		{"X-Forwarded-For", false, "192.0.2.1, 127.0.0.9", "192.0.2.1", "192.0.2.2, 127.0.0.9"},
		{"Forwarded", true, `for=192.0.2.1;proto=https`, `for=6.6.6.6, FOR="192.0.2.1:4711"; host="a,b"`, `for=192.0.2.2`},
		{"Forwarded", true, `for="[2001:db8::1]"`, `for="[2001:db8::1]:80"`, `for="[2001:db8:0:1::1]"`},
	} {
		f := start(t, func(c *gateway.Config, _ *directory.Snapshot) {
			c.TrustedProxies, c.Forwarded = nets("127.0.0.0/8"), tc.forwarded
			c.Limits.Address = limit.Rule{RequestsPerMinute: 2}
		})
		for i, step := range []struct {
			value  string
			status int
		}{{tc.first, 200}, {tc.same, 200}, {tc.first, 429}, {tc.same, 429}, {tc.other, 200}} {
			if r := f.chat(greeting, tc.header, step.value); r.StatusCode != step.status {
				t.Errorf("%s step %d (%s): %d, want %d", tc.header, i, step.value, r.StatusCode, step.status)
			}
		}
	}
}
