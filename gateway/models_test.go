package gateway_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// bothKey may call both LLM products.
const bothKey = "sk-both-0123456789"

func withBothKey(_ *gateway.Config, s *directory.Snapshot) {
	s.APIKeys = append(s.APIKeys, directory.APIKey{ID: "K-BOTH", Account: "BUYER", Hash: directory.Hash([]byte(pepper), bothKey)})
}

// TestUsedUpProductGivesWay: of two products of one name at /v1 the second
// serves when the first is used up, with the body made for it.
func TestUsedUpProductGivesWay(t *testing.T) {
	t.Parallel()
	f := start(t, withBothKey)
	f.left["S-CALL"] = 2
	for i := range 4 {
		if r := f.do("POST", "/v1/chat/completions", hello, "Authorization", "Bearer "+bothKey); r.StatusCode != 200 {
			t.Fatalf("call %d: %d %s", i, r.StatusCode, r.body)
		}
	}
	for i, want := range []string{"S-CALL", "S-CALL", "S-TOKEN", "S-TOKEN"} {
		if got := f.record(i).Subscription; got != want {
			t.Errorf("call %d went to %s, want %s", i, got, want)
		}
	}
	f.left["S-TOKEN"] = 0
	if r := f.do("POST", "/v1/chat/completions", hello, "Authorization", "Bearer "+bothKey); r.StatusCode != 429 || r.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("both used up: %d %v", r.StatusCode, r.Header)
	}
}

// TestModelOnOtherRoutes: a route the gateway does not know is resolved by the
// model in its JSON like any other, and the model's name is mapped.
func TestModelOnOtherRoutes(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		withBothKey(c, s)
		s.Products[1].Models = []directory.Model{{Name: "ranker", Upstream: "real-ranker"}}
	})
	r := f.do("POST", "/v1/rerank", `{"model":"ranker","query":"x"}`, "Authorization", "Bearer "+bothKey, "Content-Type", "application/json", "X-Mock-Record", "1")
	if r.StatusCode != 200 || !strings.Contains(f.last(t).Body, "real-ranker") {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if got := f.record(0).Product; got != "P-TOKEN" {
		t.Errorf("served by %s", got)
	}
	for _, path := range []string{"/v1/rerank", "/v1/infers/" + callInfer + "/v1/rerank"} {
		r = f.do("POST", path, `{"model":"not-mine"}`, "Authorization", "Bearer "+bothKey, "Content-Type", "application/json")
		if r.StatusCode != 404 {
			t.Errorf("%s with an unknown model: %d %s", path, r.StatusCode, r.body)
		}
	}
	r = f.do("POST", "/v1/infers/"+callInfer+"/v1/rerank", `not JSON`, "Authorization", "Bearer "+bothKey, "Content-Type", "application/json")
	if r.StatusCode != 200 {
		t.Errorf("a body that is the upstream's to judge: %d %s", r.StatusCode, r.body)
	}
}

// TestReadingAResponseChargesNoTokens: what was charged when it was made is not
// charged when it is read, cancelled or deleted.
func TestReadingAResponseChargesNoTokens(t *testing.T) {
	t.Parallel()
	body := `{"object":"response","usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12}}`
	f := startAt(t, answering(t, "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: "+itoa(len(body))+"\n\n"+body), nil)
	for i, c := range [][2]string{{"GET", "/resp_1"}, {"DELETE", "/resp_1"}, {"POST", "/resp_1/cancel"}, {"POST", ""}} {
		req := ""
		if c[1] == "" {
			req = `{"model":"demo-chat","input":"x"}`
		}
		r := f.do(c[0], "/v1/infers/"+tokenInfer+"/v1/responses"+c[1], req, "Authorization", "Bearer "+tokenKey, "Content-Type", "application/json")
		want := int64(0)
		if c[1] == "" {
			want = 12
		}
		rec := f.record(i)
		if got := rec.Charged(usage.Token); r.StatusCode != 200 || got != want {
			t.Errorf("%s %s: %d, %d tokens charged, want %d", c[0], c[1], r.StatusCode, got, want)
		}
	}
}

// TestTrailersDoNotHideUsage: an answer that is relayed as it comes for its
// trailers is still looked into.
func TestTrailersDoNotHideUsage(t *testing.T) {
	t.Parallel()
	body := `{"object":"chat.completion","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}`
	f := startAt(t, answering(t, "HTTP/1.1 200 OK\nContent-Type: application/json\nTransfer-Encoding: chunked\nTrailer: X-T\n\n"+
		itoaHex(len(body))+"\n"+body+"\n0\nX-T: yes\n\n"), nil)
	r := f.do("POST", "/v1/infers/"+tokenInfer+"/v1/chat/completions", hello, "Authorization", "Bearer "+tokenKey)
	if r.StatusCode != 200 || r.body != body || r.Trailer.Get("X-T") != "yes" {
		t.Errorf("%d %q %v", r.StatusCode, r.body, r.Trailer)
	}
	if rec := f.record(0); rec.Charged(usage.Token) != 12 || rec.Basis != usage.BasisUpstream {
		t.Errorf("%+v", rec)
	}
}

// TestHeldIsNotUsedUp: what calls under way hold may come back, so the caller is
// told to try again.
func TestHeldIsNotUsedUp(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.admitErr = gateway.ErrHeld
	r := f.chat(hello)
	if r.StatusCode != 429 || r.Header.Get("X-Should-Retry") != "" || r.Header.Get("Retry-After") != "1" || !strings.Contains(r.body, "rate_limit_exceeded") {
		t.Errorf("%d %v %s", r.StatusCode, r.Header, r.body)
	}
}

// TestExpectIsUnknownToHTTP10 (RFC 9110 section 10.1.1).
func TestExpectIsUnknownToHTTP10(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	w := f.dial()
	w.raw("POST /v1/infers/" + callInfer + "/v1/chat/completions HTTP/1.0\r\nAuthorization: Bearer " + callKey +
		"\r\nExpect: 100-continue\r\nContent-Length: " + itoa(len(hello)) + "\r\n\r\n" + hello)
	if l := w.line(); !strings.Contains(l, " 200 ") {
		t.Errorf("the first line is %q", l)
	}
}

// TestStatusBelow100 is no interim answer.
func TestStatusBelow100(t *testing.T) {
	t.Parallel()
	f := startAt(t, answering(t, "HTTP/1.1 099 Odd\nContent-Length: 0\n\n"), nil)
	if r := f.chat(hello); r.StatusCode != 502 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
}

// TestShutdownDoesNotWaitForTheSilent: a connection that has sent nothing, or
// half a header, carries no call.
func TestShutdownDoesNotWaitForTheSilent(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for _, text := range []string{"", "GET / HTT", "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"} {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	f.chat(hello) // the connections before it are accepted by now
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := f.gateway.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
