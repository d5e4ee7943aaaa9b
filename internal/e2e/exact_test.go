package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/request"

	"tollgate/internal/testkit/redis"
	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

const (
	// mixed is the number of calls of the exactness test.
	mixed = 10_000
	// connections call at the same time.
	connections = 64
)

// startRedis runs one Redis and returns its address.
func startRedis(t *testing.T) string {
	t.Helper()
	return redis.Start(t, redis.Options{AppendOnly: "everysec"}).URL()
}

// stores are the quota stores under which counting must be exact.
var stores = []struct {
	name  string
	start func(t *testing.T) string
}{
	{name: "embedded", start: func(*testing.T) string { return "" }},
	{name: "redis", start: startRedis},
	{name: "cluster", start: func(t *testing.T) string {
		t.Helper()
		return redis.StartCluster(t, redis.Options{AppendOnly: "everysec"}).URL()
	}},
}

// load calls by many connections at once: call(i) for i in [0, total).
func load(t *testing.T, total int, call func(client *http.Client, i int) error) {
	t.Helper()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: time.Minute}
			defer client.CloseIdleConnections()
			for i := int(next.Add(1)) - 1; i < total; i = int(next.Add(1)) - 1 {
				if err := call(client, i); err != nil && failed.Add(1) <= 10 {
					t.Errorf("call %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Fatalf("%d of %d calls went wrong", n, total)
	}
}

// patience is how long a call is tried again while the node says that its
// quota store does not answer (503, code 0606): nothing was charged, and real
// clients retry. A store on a machine busy with other tests may well stall.
const patience = 20 * time.Second

// answer sends a request, reads the answer to its end and returns it with its
// body. A body that breaks off is an error unless broken is expected.
func answer(client *http.Client, req *http.Request, broken bool) (*http.Response, []byte, error) {
	var resp *http.Response
	var body []byte
	var fatal error
	err := wait.For(req.Context(), patience, func(context.Context) error {
		again := req.Clone(req.Context())
		if req.GetBody != nil {
			if again.Body, fatal = req.GetBody(); fatal != nil {
				return nil
			}
		}
		if resp, fatal = client.Do(again); fatal != nil {
			return nil
		}
		defer resp.Body.Close()
		if body, fatal = io.ReadAll(resp.Body); fatal != nil {
			if broken {
				fatal = nil
			}
			return nil
		}
		if resp.StatusCode == http.StatusServiceUnavailable && bytes.Contains(body, []byte(`.0606"`)) {
			return fmt.Errorf("the node cannot decide: %s", body)
		}
		return nil
	})
	return resp, body, errors.Join(fatal, err)
}

// expect makes a call that must end with the given status.
func expect(client *http.Client, req *http.Request, status int, broken bool) error {
	resp, body, err := answer(client, req, broken)
	if err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("status %d, want %d: %s", resp.StatusCode, status, body)
	}
	return nil
}

// TestMixedCallsAreCountedExactly makes 10 000 calls of every outcome and holds
// that afterwards `used` is the number of calls the upstream answered with 2xx,
// no more and no less, and the tokens those that it reported (METER-2, METER-3,
// METER-12).
func TestMixedCallsAreCountedExactly(t *testing.T) {
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			n := tollgate.Start(t, tollgate.Options{Units: 2_000_000, QuotaStore: store.start(t)})
			var calls, tokens, apiCalls atomic.Int64 // what must be charged
			start := time.Now()
			load(t, mixed, func(client *http.Client, i int) error {
				switch kind := i % 20; {
				case kind < 2: // a signed call of the API product
					apiCalls.Add(1)
					return expect(client, vendorRequest(t, n.Demo.API, func(*request.HttpRequestBuilder) {}), http.StatusOK, false)
				case kind < 7: // tokens: plain and streamed
					prompt, completion := rand.IntN(100)+1, rand.IntN(100)+1
					body := chatBody
					if kind%2 == 0 {
						body = streamBody
					}
					req := chatRequest(t, n.Demo.LLMTokens, body, steer{
						"X-Mock-Tokens": fmt.Sprintf("%d,%d", prompt, completion), "X-Mock-Chunks": "5",
					})
					tokens.Add(int64(prompt + completion))
					return expect(client, req, http.StatusOK, false)
				default:
					return mixedCall(t, client, n.Demo.LLM, kind, &calls)
				}
			})
			took := time.Since(start)
			mock := readMock(t, n)
			if want := calls.Load() + apiCalls.Load() + countTokenCalls; mock.Total2xx != want {
				t.Errorf("the upstream answered %d calls with 2xx, the client saw %d", mock.Total2xx, want)
			}
			waitUsed(t, n, n.Demo.LLM.SubscriptionID, calls.Load())
			waitUsed(t, n, n.Demo.API.SubscriptionID, apiCalls.Load())
			waitUsed(t, n, n.Demo.LLMTokens.SubscriptionID, tokens.Load())
			t.Logf("%d calls in %s", mixed, took)

			// Nothing is left on the way: drained, started again, still the same.
			if exit := n.Terminate(); exit != 0 {
				t.Errorf("SIGTERM: exit code %d", exit)
			}
			n.Restart()
			for subscription, want := range map[string]int64{
				n.Demo.LLM.SubscriptionID: calls.Load(), n.Demo.API.SubscriptionID: apiCalls.Load(), n.Demo.LLMTokens.SubscriptionID: tokens.Load(),
			} {
				q := waitUsed(t, n, subscription, want)
				if q.Overrun != 0 {
					t.Errorf("overrun of a package that never ran dry: %+v", q)
				}
			}
		})
	}
}

// countTokenCalls is how many of the mixed calls go to the product sold by
// tokens: 5 of every 20.
const countTokenCalls = mixed / 20 * 5

// mixedCall makes a call of the given kind (7 to 19) to the product sold by
// calls and adds it to charged if it must be charged.
func mixedCall(t *testing.T, client *http.Client, p tollgate.LLM, kind int, charged *atomic.Int64) error {
	for _, k := range []struct {
		upTo    int
		body    string
		headers steer
		want    int
		counts  bool
		broken  bool
	}{
		{upTo: 9, body: chatBody, want: 200, counts: true},
		{upTo: 10, body: chatBody, headers: steer{"X-Mock-Status": "299"}, want: 299, counts: true},
		{upTo: 11, body: chatBody, headers: steer{"X-Mock-Status": "300"}, want: 300},
		{upTo: 13, body: chatBody, headers: steer{"X-Mock-Status": "404"}, want: 404},
		{upTo: 14, body: chatBody, headers: steer{"X-Mock-Status": "429"}, want: 429},
		{upTo: 15, body: chatBody, headers: steer{"X-Mock-Status": "500"}, want: 500},
		{upTo: 16, body: streamBody, headers: steer{"X-Mock-Status": "503"}, want: 503},
		{upTo: 18, body: streamBody, headers: steer{"X-Mock-Chunks": "10"}, want: 200, counts: true},
		{upTo: 19, body: streamBody, headers: steer{"X-Mock-Chunks": "10", "X-Mock-Break": "5"}, want: 200, counts: true, broken: true}, // METER-10
	} {
		if kind > k.upTo {
			continue
		}
		if k.counts {
			charged.Add(1)
		}
		return expect(client, chatRequest(t, p, k.body, k.headers), k.want, k.broken)
	}
	return fmt.Errorf("no call of kind %d", kind)
}

// TestNoUnitIsSoldTwice has 64 connections race for a package of 5 000 with
// twice as many calls: exactly 5 000 succeed, the rest is told that the package
// is used up before the upstream is asked (PKG-23).
func TestNoUnitIsSoldTwice(t *testing.T) {
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			const units = mixed / 2
			n := tollgate.Start(t, tollgate.Options{Units: units, QuotaStore: store.start(t)})
			var sold, refused atomic.Int64
			load(t, mixed, func(client *http.Client, _ int) error {
				resp, body, err := answer(client, chatRequest(t, n.Demo.LLM, chatBody, nil), false)
				switch {
				case err != nil:
					return err
				case resp.StatusCode == http.StatusOK:
					sold.Add(1)
				case resp.StatusCode == http.StatusTooManyRequests && bytes.Contains(body, []byte(`"insufficient_quota"`)) && resp.Header.Get("X-Should-Retry") == "false":
					refused.Add(1)
				default:
					return fmt.Errorf("status %d, x-should-retry %q: %s", resp.StatusCode, resp.Header.Get("X-Should-Retry"), body)
				}
				return nil
			})
			if sold.Load() != units || refused.Load() != mixed-units {
				t.Errorf("%d calls succeeded and %d were refused, want %d and %d", sold.Load(), refused.Load(), units, mixed-units)
			}
			if got := readMock(t, n).Total2xx; got != units {
				t.Errorf("the upstream answered %d calls, want %d", got, units)
			}
			q := waitUsed(t, n, n.Demo.LLM.SubscriptionID, units)
			if q.Remaining != 0 || q.Leased != 0 || q.Overrun != 0 {
				t.Errorf("after the last unit: %+v", q)
			}
		})
	}
}

// TestSeveralNodesSellEachUnitOnce has three gateways race for one package.
func TestSeveralNodesSellEachUnitOnce(t *testing.T) {
	const units = 1000
	secret := strings.Repeat("feed", 8)
	store := startRedis(t)
	first := tollgate.Start(t, tollgate.Options{Units: units, QuotaStore: store, FeedSecret: secret, Name: "node-1"})
	products := []tollgate.LLM{first.Demo.LLM}
	for i := range 2 {
		next := tollgate.Start(t, tollgate.Options{
			Role: "gateway", QuotaStore: store, FeedSecret: secret, Name: "node-" + strconv.Itoa(i+2), AdminURL: first.Demo.AdminURL,
		})
		products = append(products, moved(t, first.Demo.LLM, next.Demo.GatewayURL))
	}
	var sold atomic.Int64
	load(t, 2*units, func(client *http.Client, i int) error {
		resp, body, err := answer(client, chatRequest(t, products[i%len(products)], chatBody, nil), false)
		switch {
		case err != nil:
			return err
		case resp.StatusCode == http.StatusOK:
			sold.Add(1)
		case resp.StatusCode != http.StatusTooManyRequests:
			return fmt.Errorf("status %d: %s", resp.StatusCode, body)
		}
		return nil
	})
	if sold.Load() != units {
		t.Errorf("%d calls succeeded on %d nodes, want %d", sold.Load(), len(products), units)
	}
	waitUsed(t, first, first.Demo.LLM.SubscriptionID, units)
}
