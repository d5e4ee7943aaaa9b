package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/gateway/idempotency"
	"tollgate/internal/directory"
)

func keeping(c *gateway.Config, _ *directory.Snapshot) {
	c.Idempotency.Store = idempotency.NewLocal(10*time.Minute, 1<<20)
}

const inferChat = "/v1/infers/" + callInfer + "/v1/chat/completions"

// TestReplay repeats calls with a key: one goes upstream and is charged, the
// others get its answer, byte for byte.
func TestReplay(t *testing.T) {
	t.Parallel()
	streamed := `{"model":"demo-chat","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}`
	for _, tc := range []struct{ name, path, body string }{
		{"plain", inferChat, greeting},
		{"streamed", inferChat, streamed},
		{"API product", "/demo/weather/x?y=1", "some text"},
		{"API product, a body that is usually sent on as it comes", "/demo/weather/x", strings.Repeat("long text ", 5000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, keeping)
			call := func() reply {
				h := []string{"Idempotency-Key", "k1", "Content-Type", "application/json", "Authorization", "Bearer " + callKey}
				if tc.path != inferChat {
					h = []string{"Idempotency-Key", "k1", "X-Apig-AppCode", appCode}
				}
				return f.do("POST", tc.path, tc.body, h...)
			}
			first := call()
			f.record(0)
			if first.StatusCode != 200 || first.Header.Get("Idempotency-Replayed") != "" {
				t.Fatalf("%d %v %s", first.StatusCode, first.Header, first.body)
			}
			for range 3 {
				again := call()
				if again.StatusCode != 200 || again.body != first.body || again.Header.Get("Idempotency-Replayed") != "true" {
					t.Fatalf("%d %v\n%q\nwant\n%q", again.StatusCode, again.Header, again.body, first.body)
				}
				if again.Header.Get("X-Request-Id") == first.Header.Get("X-Request-Id") || again.Header.Get("X-Tollgate-Original-Request-Id") != first.Header.Get("X-Request-Id") {
					t.Errorf("request ids: %v after %v", again.Header, first.Header)
				}
				for _, name := range []string{"Content-Type", "X-Tollgate-Charged"} {
					if again.Header.Get(name) != first.Header.Get(name) {
						t.Errorf("%s: %q, want %q", name, again.Header.Get(name), first.Header.Get(name))
					}
				}
			}
			f.idle()
			if len(f.records) != 1 || len(f.notes) != 3 || f.notes[0].Reason != "replayed" || len(f.notes[0].Charges) != 0 {
				t.Errorf("%d charged, %d noted", len(f.records), len(f.notes))
			}
			if served := f.mock.Stats().Total; served != 1 {
				t.Errorf("the upstream was called %d times", served)
			}
		})
	}
}

// TestReplayScope: what is not the same call runs as its own, or is refused.
func TestReplayScope(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		keeping(c, s)
		s.APIKeys[1].Products = nil // both keys may call both products
	})
	post := func(key, path, body, idem string, extra ...string) reply {
		return f.do("POST", path, body, append([]string{"Authorization", "Bearer " + key, "Content-Type", "application/json", "Idempotency-Key", idem}, extra...)...)
	}
	if r := post(callKey, inferChat, greeting, "k"); r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	other := strings.Replace(greeting, "hi", "ho", 1)
	r := post(callKey, inferChat, other, "k")
	if r.StatusCode != 422 || envelope(t, r.body).Error.Code != "idempotency_key_reused" || r.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("another body: %d %v %s", r.StatusCode, r.Header, r.body)
	}
	for name, r := range map[string]reply{
		"another key":        post(callKey, inferChat, greeting, "k2"),
		"another credential": post(tokenKey, inferChat, greeting, "k"),
		"another path":       post(callKey, inferChat+"?x", other, "k"),
	} {
		if r.StatusCode != 200 || r.Header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%s: %d %v", name, r.StatusCode, r.Header)
		}
	}
	if r := post(callKey, inferChat, greeting, strings.Repeat("k", 256)); r.StatusCode != 400 {
		t.Errorf("an absurd key: %d", r.StatusCode)
	}
	// What failed was not charged, and may be tried again under its key.
	if r := post(callKey, inferChat, greeting, "fails", "X-Mock-Status", "503"); r.StatusCode != 503 {
		t.Fatalf("%d", r.StatusCode)
	}
	if r := post(callKey, inferChat, greeting, "fails"); r.StatusCode != 200 || r.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("after a failure: %d %v", r.StatusCode, r.Header)
	}
	if r := post(callKey, inferChat, greeting, "cut", "X-Mock-Break", "1"); r.StatusCode == 200 {
		t.Logf("broken answer: %d %q", r.StatusCode, r.body)
	}
}

// TestReplayWhileRunning: a repetition of a call that is under way is told so;
// a stream whose client left is read on, and then replayed whole.
func TestReplayWhileRunning(t *testing.T) {
	t.Parallel()
	f := start(t, keeping)
	const streamed = `{"model":"demo-chat","stream":true,"messages":[{"role":"user","content":"hi"}]}`
	call := func() (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", f.url+inferChat, body(streamed))
		if err != nil {
			return nil, err
		}
		for k, v := range map[string]string{
			"Authorization": "Bearer " + callKey, "Content-Type": "application/json", "Idempotency-Key": "k",
			"X-Mock-Chunks": "40", "X-Mock-Chunk-Delay": "10ms",
		} {
			req.Header.Set(k, v)
		}
		return f.client.Do(req)
	}
	first, err := call()
	if err != nil {
		t.Fatal(err)
	}
	second, err := call()
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(second.Body)
	_ = second.Body.Close()
	if second.StatusCode != 409 || second.Header.Get("Retry-After") != "1" || envelope(t, string(text)).Error.Code != "idempotency_key_in_use" {
		t.Fatalf("%d %s", second.StatusCode, text)
	}
	_ = first.Body.Close() // after the first bytes
	f.record(0)            // it was read on and charged
	var third *http.Response
	f.eventually("the replay", func() error {
		if third, err = call(); err != nil {
			return err
		}
		text, err = io.ReadAll(third.Body)
		_ = third.Body.Close()
		if third.StatusCode != 200 {
			return io.ErrNoProgress
		}
		return err
	})
	if third.Header.Get("Idempotency-Replayed") != "true" || strings.Count(string(text), "data: ") < 40 || !strings.HasSuffix(string(text), "data: [DONE]\n\n") {
		t.Fatalf("%v %q", third.Header, text)
	}
	f.idle()
	if len(f.records) != 1 {
		t.Fatalf("%d calls were charged", len(f.records))
	}
}

// TestReplayRace sends the same call many times at once: one is charged.
func TestReplayRace(t *testing.T) {
	t.Parallel()
	f := start(t, keeping)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				r := f.chat(greeting, "Idempotency-Key", "race", "X-Mock-Latency", "5ms")
				if r.StatusCode == 409 {
					continue
				}
				if r.StatusCode != 200 {
					t.Errorf("%d %s", r.StatusCode, r.body)
				}
				return
			}
		})
	}
	wg.Wait()
	f.idle()
	if len(f.records) != 1 {
		t.Fatalf("%d of 32 equal calls were charged", len(f.records))
	}
}

// TestAnAnswerTooLargeToKeepRunsAgain says what the bound costs.
func TestAnAnswerTooLargeToKeepRunsAgain(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		keeping(c, s)
		c.Idempotency.MaxAnswer = 64
	})
	for range 2 {
		if r := f.chat(greeting, "Idempotency-Key", "k"); r.StatusCode != 200 || r.Header.Get("Idempotency-Replayed") != "" {
			t.Fatalf("%d %v", r.StatusCode, r.Header)
		}
	}
	f.idle()
	if len(f.records) != 2 {
		t.Fatalf("%d charged", len(f.records))
	}
}
