package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"tollgate/internal/testkit/redis"
	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// api makes a call of the admin API and decodes its answer.
func api(t *testing.T, n *tollgate.Node, token, method, path, body string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.Demo.AdminURL+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s %v", method, path, resp.StatusCode, text, err)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
}

// limitKey sets the policy of the API key of the demo's per-call product, as its
// buyer would.
func limitKey(t *testing.T, n *tollgate.Node, policy string) {
	t.Helper()
	var list struct {
		Items []struct{ ID, Prefix, Suffix string }
	}
	api(t, n, n.Demo.BuyerToken, "GET", "/api-keys", "", &list)
	for _, k := range list.Items {
		if strings.HasPrefix(n.Demo.LLM.APIKey, k.Prefix) && strings.HasSuffix(n.Demo.LLM.APIKey, k.Suffix) {
			api(t, n, n.Demo.BuyerToken, "PUT", "/api-keys/"+k.ID+"/policy", policy, nil)
			return
		}
	}
	t.Fatalf("the demo's key is not among %+v", list)
}

func complete(t *testing.T, base, key string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", base+"/chat/completions", bytes.NewReader([]byte(`{"model":"demo-chat","messages":[{"role":"user","content":"hi"}]}`)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp
}

// waitLimit waits until answers tell of the limit.
func waitLimit(t *testing.T, base, key string) (calls int64) {
	t.Helper()
	wait.Until(t, 10*time.Second, "the limit to be in force", func(context.Context) error {
		calls++
		if v := complete(t, base, key).Header.Get("X-Ratelimit-Limit-Requests"); v == "" {
			return errors.New("no x-ratelimit-limit-requests")
		}
		return nil
	})
	return calls
}

// TestOpenAISDKWaitsForItsLimit sets a limit by the admin API; the official SDK
// for Go reads retry-after-ms, waits, and its call is answered; each answer is
// charged once, no refusal is.
func TestOpenAISDKWaitsForItsLimit(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 100})
	limitKey(t, n, `{"requests_per_minute":120}`) // two in a second, and 120 at once
	before := waitLimit(t, n.Demo.LLM.BaseURL, n.Demo.LLM.APIKey)
	limitKey(t, n, `{"requests_per_second":1}`)
	wait.Until(t, 10*time.Second, "the second limit to be in force", func(context.Context) error {
		r := complete(t, n.Demo.LLM.BaseURL, n.Demo.LLM.APIKey)
		if r.StatusCode == 200 {
			before++
		}
		if v := r.Header.Get("X-Ratelimit-Limit-Requests"); v != "1" {
			return fmt.Errorf("limit %q", v)
		}
		return nil
	})
	var refused, waits atomic.Int64
	client := openai.NewClient(option.WithBaseURL(n.Demo.LLM.BaseURL), option.WithAPIKey(n.Demo.LLM.APIKey), option.WithMaxRetries(3),
		option.WithMiddleware(func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			resp, err := next(req)
			if err == nil && resp.StatusCode == 429 {
				refused.Add(1)
				if resp.Header.Get("Retry-After") == "1" && resp.Header.Get("Retry-After-Ms") != "" {
					waits.Add(1)
				}
			}
			return resp, err
		}))
	const calls = 3
	for range calls {
		_, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
			Model: n.Demo.LLM.Model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if refused.Load() < calls-1 || waits.Load() != refused.Load() {
		t.Errorf("%d refusals, %d of them with the time to wait", refused.Load(), waits.Load())
	}
	wait.Until(t, 10*time.Second, "the calls to be settled", func(context.Context) error {
		var q struct{ Used int64 }
		api(t, n, n.Demo.BuyerToken, "GET", "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/quota", "", &q)
		if q.Used != before+calls {
			return fmt.Errorf("%d used, want %d", q.Used, before+calls)
		}
		return nil
	})
}

// TestTwoGatewaysShareALimit sends calls to two gateways on one Redis: together
// they admit the limit once, not each of them.
func TestTwoGatewaysShareALimit(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	secret := "limits-feed-secret"
	first := tollgate.Start(t, tollgate.Options{QuotaStore: server.URL(), FeedSecret: secret, Name: "one"})
	second := tollgate.Start(t, tollgate.Options{Role: "gateway", QuotaStore: server.URL(), FeedSecret: secret, Name: "two", AdminURL: first.Demo.AdminURL, Upstream: ""})
	path := strings.TrimPrefix(first.Demo.LLM.BaseURL, first.Demo.GatewayURL)
	for _, n := range []*tollgate.Node{first, second} {
		wait.Until(t, 20*time.Second, "both gateways to know of each other", func(context.Context) error {
			resp, err := http.Get(n.Demo.AdminURL + "/metrics")
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			text, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(text), "\ntollgate_limit_nodes 2\n") {
				return fmt.Errorf("no tollgate_limit_nodes 2, %w", err)
			}
			return nil
		})
	}
	limitKey(t, first, `{"requests_per_minute":60}`)
	admitted := waitLimit(t, first.Demo.GatewayURL+path, first.Demo.LLM.APIKey) + waitLimit(t, second.Demo.GatewayURL+path, first.Demo.LLM.APIKey)
	began, unlimited := time.Now(), admitted
	admitted = 2 // at most one call of each wait came after the limit
	for i := range 200 {
		n := []*tollgate.Node{first, second}[i%2]
		if complete(t, n.Demo.GatewayURL+path, first.Demo.LLM.APIKey).StatusCode == 200 {
			admitted++
		}
	}
	// What came back meanwhile: one a second.
	if most := 60 + int64(time.Since(began).Seconds()+2); admitted > most || admitted < 50 {
		t.Errorf("two gateways admitted %d calls under a limit of 60, want at most %d (%d before)", admitted, most, unlimited)
	}
}

// TestIdempotencyOfAKilledCall: a gateway that is killed under a call leaves its
// shared key taken for no longer than the lease; then the repetition runs.
func TestIdempotencyOfAKilledCall(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	server := redis.Start(t, redis.Options{})
	n := tollgate.Start(t, tollgate.Options{
		QuotaStore: server.URL(), Units: 100,
		Env: []string{"TOLLGATE_GATEWAY_IDEMPOTENCY_STORE=shared", "TOLLGATE_GATEWAY_IDEMPOTENCY_LEASE=" + lease.String()},
	})
	send := func(latency string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", n.Demo.LLM.BaseURL+"/chat/completions", strings.NewReader(`{"model":"demo-chat","messages":[{"role":"user","content":"hi"}]}`))
		if err != nil {
			return nil, err
		}
		for k, v := range map[string]string{"Authorization": "Bearer " + n.Demo.LLM.APIKey, "Content-Type": "application/json", "Idempotency-Key": "killed", "X-Mock-Latency": latency} {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		return resp, err
	}
	first := make(chan error, 1)
	go func() { _, err := send("60s"); first <- err }()
	wait.Until(t, 60*time.Second, "the call to hold its key", func(ctx context.Context) error {
		if n := len(server.Client().Keys(ctx, "*answer:*").Val()); n != 1 {
			return fmt.Errorf("%d keys", n)
		}
		return nil
	})
	// While it runs, and past its lease, the key is its own.
	began := time.Now()
	wait.Until(t, 60*time.Second, "the key to be held past its lease", func(context.Context) error {
		resp, err := send("0s")
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusConflict {
			t.Fatalf("status %d under a call that runs, want 409", resp.StatusCode)
		}
		if time.Since(began) < 2*lease {
			return errors.New("not yet past the lease")
		}
		return nil
	})
	n.Kill()
	if err := <-first; err == nil {
		t.Fatal("the killed call was answered")
	}
	n.Restart()
	wait.Until(t, 60*time.Second, "the dead call's key to be free", func(context.Context) error {
		resp, err := send("0s")
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		if resp.Header.Get("Idempotency-Replayed") != "" {
			t.Error("an answer nobody was given is replayed")
		}
		return nil
	})
}

// TestIdempotencyOverACrash says what a client sees whose gateway is killed: an
// answer kept in memory is forgotten, and the repetition is a call of its own;
// in Redis it is kept, and is replayed.
func TestIdempotencyOverACrash(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		store string
		want  int64 // calls charged
	}{{"memory", 2}, {"shared", 1}} {
		server := redis.Start(t, redis.Options{})
		n := tollgate.Start(t, tollgate.Options{
			QuotaStore: server.URL(), Units: 100, Env: []string{"TOLLGATE_GATEWAY_IDEMPOTENCY_STORE=" + tc.store},
		})
		send := func() *http.Response {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), "POST", n.Demo.LLM.BaseURL+"/chat/completions", strings.NewReader(`{"model":"demo-chat","messages":[{"role":"user","content":"hi"}]}`))
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range map[string]string{"Authorization": "Bearer " + n.Demo.LLM.APIKey, "Content-Type": "application/json", "Idempotency-Key": "crash"} {
				req.Header.Set(k, v)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Fatalf("%s: %d", tc.store, resp.StatusCode)
			}
			return resp
		}
		send()
		if send().Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%s: not replayed", tc.store)
		}
		n.Kill()
		n.Restart()
		if replayed := send().Header.Get("Idempotency-Replayed") == "true"; replayed != (tc.want == 1) {
			t.Errorf("%s: replayed after the crash: %v", tc.store, replayed)
		}
		wait.Until(t, 30*time.Second, "the calls to be settled", func(context.Context) error {
			var q struct{ Used int64 }
			api(t, n, n.Demo.BuyerToken, "GET", "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/quota", "", &q)
			if q.Used != tc.want {
				return fmt.Errorf("%s: %d used, want %d", tc.store, q.Used, tc.want)
			}
			return nil
		})
	}
}
