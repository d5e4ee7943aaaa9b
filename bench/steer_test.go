package bench

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const streamBody = `{"model":"demo-chat","stream":true,"messages":[]}`

// withUsage asks for the usage chunk.
const withUsage = `{"model":"demo-chat","stream":true,"stream_options":{"include_usage":true},"messages":[]}`

// usageOf returns the top-level usage of a JSON object: nil when absent, "null"
// when null.
func usageOf(t testing.TB, data string) *string {
	t.Helper()
	var top map[string]json.RawMessage
	if err := json.Unmarshal([]byte(data), &top); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	u, ok := top["usage"]
	if !ok {
		return nil
	}
	s := string(u)
	return &s
}

func TestStatus(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	for _, path := range []string{"/v1/chat/completions", "/v1/embeddings", "/anything", "/v1/models"} {
		for _, status := range []string{"200", "201", "204", "206", "302", "304", "400", "401", "404", "429", "500", "503", "599"} {
			method, body := "POST", chatBody
			if path == "/v1/models" {
				method, body = "GET", ""
			}
			resp, b, err := call(t, method, url+path, body, "Status: "+status)
			if err != nil {
				t.Fatalf("%s %s: %v", path, status, err)
			}
			if got := strconv.Itoa(resp.StatusCode); got != status {
				t.Errorf("%s: status %s, want %s", path, got, status)
			}
			if bodiless := status == "204" || status == "304"; bodiless != (len(b) == 0) {
				t.Errorf("%s %s: body %q", path, status, b)
			} else if !bodiless && !json.Valid(b) {
				t.Errorf("%s %s: body %q", path, status, b)
			}
			if n := u.Stats().Of(path, resp.StatusCode); n != 1 {
				t.Errorf("%s %s: counted %d times", path, status, n)
			}
		}
	}
	s := u.Stats()
	if s.Total != 52 || s.Total2xx != 16 || s.Total3xx != 8 || s.Total4xx != 16 || s.Total5xx != 12 {
		t.Errorf("%+v", s)
	}
}

// TestBreaks cuts answers off in every way and checks what the client sees.
func TestBreaks(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	for _, tt := range []struct {
		name, path, body string
		steer            []string
		status           int // 0: no answer at all
		least, most      int // bytes of the body seen
		events           int // complete events seen, -1: no stream
	}{
		{"stream after 10", "/v1/chat/completions", streamBody, []string{"Chunks: 50", "Break: 10"}, 200, 1, 1 << 20, 10},
		{"stream after 0", "/v1/chat/completions", streamBody, []string{"Break: 0"}, 200, 1, 1000, 0},
		{"stream after its last event", "/v1/chat/completions", streamBody, []string{"Chunks: 2", "Break: 100"}, 200, 1, 1 << 20, 5},
		{"stream after 10, by RST", "/v1/chat/completions", streamBody, []string{"Chunks: 50", "Break: 10;rst"}, 200, 0, 1 << 20, -1},
		{"responses after 3", "/v1/responses", `{"model":"m","input":"x","stream":true}`, []string{"Break: 3"}, 200, 1, 1 << 20, 3},
		{"body after 10 bytes", "/v1/chat/completions", chatBody, []string{"Break: 10"}, 200, 10, 10, -1},
		{"body after 0 bytes", "/v1/chat/completions", chatBody, []string{"Break: 0"}, 200, 0, 0, -1},
		{"body just before its end", "/v1/chat/completions", chatBody, []string{"Break: 1000000"}, 200, 100, 10000, -1},
		{"chunked body after 10 bytes", "/v1/chat/completions", chatBody, []string{"Break: 10", "Chunked: 1"}, 200, 10, 10, -1},
		{"error after 10 bytes", "/v1/chat/completions", chatBody, []string{"Break: 10", "Status: 503"}, 503, 10, 10, -1},
		{"echo after 10 bytes", "/x", "body", []string{"Break: 10"}, 200, 10, 10, -1},
		{"at the start", "/v1/chat/completions", chatBody, []string{"Break: start"}, 0, 0, 0, -1},
		{"at the start, by RST", "/v1/chat/completions", chatBody, []string{"Break: start;rst"}, 0, 0, 0, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u.Reset()
			resp, b, err := call(t, "POST", url+tt.path, tt.body, tt.steer...)
			if err == nil {
				t.Fatalf("the client sees a whole answer: %s", b)
			}
			s := u.Stats()
			if tt.status == 0 {
				if resp != nil || s.Dropped != 1 || s.Total != 0 {
					t.Errorf("%v %+v", resp, s)
				}
				return
			}
			if resp == nil || resp.StatusCode != tt.status {
				t.Fatalf("%v %v", resp, err)
			}
			if s.Broken != 1 || s.Total != 1 || s.Finished != 0 || s.Of(tt.path, tt.status) != 1 || s.Usage.TotalTokens != 0 {
				t.Errorf("%+v", s)
			}
			if len(b) < tt.least || len(b) > tt.most {
				t.Errorf("%d bytes: %s", len(b), b)
			}
			if n := strings.Count(string(b), "\n\n"); tt.events >= 0 && n != tt.events {
				t.Errorf("%d events, want %d: %s", n, tt.events, b)
			}
			if !strings.Contains(tt.name, "RST") && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v, want an unexpected end", err)
			}
		})
	}
	waitActive(t, u)
}

// waitActive waits until nothing is being answered any more.
func waitActive(t testing.TB, u *Upstream) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for u.Stats().Active != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("still active: %+v", u.Stats())
		}
		<-time.After(time.Millisecond)
	}
}

func TestInterim(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	var seen []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		seen = append(seen, code)
		if code == 103 && h.Get("Link") == "" {
			t.Error("103 without Link")
		}
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, "POST", url+"/v1/chat/completions", strings.NewReader(chatBody))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Mock-1xx", "103, 102")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || usageOf(t, string(b)) == nil {
		t.Errorf("%v %s", err, b)
	}
	if d := cmp.Diff([]int{103, 102}, seen); d != "" {
		t.Error(d)
	}
	if s := u.Stats(); s.Interims != 2 || s.Total != 1 {
		t.Errorf("%+v", s)
	}
}

func TestLatency(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	begin := time.Now()
	if _, _, err := call(t, "GET", url+"/x", "", "Latency: 50ms"); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d < 50*time.Millisecond {
		t.Errorf("answered after %v", d)
	}
}

func TestFlaky(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	var got []int
	for range 4 {
		resp, _, err := call(t, "POST", url+"/v1/chat/completions", chatBody, "Flaky: k1,2,502")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, resp.StatusCode)
	}
	if d := cmp.Diff([]int{502, 502, 200, 200}, got); d != "" {
		t.Error(d)
	}
}

// TestBadSteering: a misspelt header must not pass for none.
func TestBadSteering(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	bad := []string{
		"Status: 99", "Status: 600", "Status: x", "Latency: 5", "Latency: -1s", "Chunks: -1", "Chunk-Delay: 1", "Tokens: 1",
		"Tokens: 1,x", "Tokens: -1,1", "Tokens: 1,2,3,4,5", "Usage: all", "Break: x", "Break: -1", "Break: 1;fin", "Split: 0",
		"Size: 0", "Encoding: lzma", "Trailer: x", "Header: x", "1xx: 200", "1xx: 101", "Quirk: odd", "Flaky: k", "Flaky: k,x",
		"Stauts: 503",
	}
	for _, s := range bad {
		resp, b, err := call(t, "GET", url+"/x", "", s)
		if err != nil || resp.StatusCode != 400 || !strings.Contains(string(b), "X-Mock-") {
			t.Errorf("%s: %v %s", s, err, b)
		}
	}
	if s := u.Stats(); s.Invalid != int64(len(bad)) || s.Total4xx != s.Invalid {
		t.Errorf("%+v", s)
	}
}
