package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// sse is a scripted upstream's answer of events, each flushed as one chunk when
// next allows it (nil: at once).
func sse(t testing.TB, events []string, next <-chan struct{}) string {
	return upstreamOf(t, func(p *peer) {
		for {
			if _, _, err := p.request(); err != nil {
				return
			}
			p.say("HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\n")
			for _, e := range events {
				if next != nil {
					select {
					case <-next:
					case <-time.After(patience):
						return
					}
				}
				if _, err := fmt.Fprintf(p, "%x\r\n%s\r\n", len(e), e); err != nil {
					return
				}
			}
			p.say("0\n\n")
		}
	})
}

// chunk reads one chunk of a chunked answer as it came.
func (w *wire) chunk() string {
	w.t.Helper()
	n, err := strconv.ParseInt(w.line(), 16, 32)
	if err != nil {
		w.t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(w.br, b); err != nil {
		w.t.Fatal(err)
	}
	w.line()
	return string(b)
}

// chatHead is the head of a streamed chat call for body.
func chatHead(body string) string {
	return fmt.Sprintf("POST /v1/infers/%s/v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer %s\nContent-Length: %d\n\n", callInfer, callKey, len(body))
}

const (
	usageChunk = `data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}` + "\n\n"
	doneEvent  = "data: [DONE]\n\n"
)

func textChunk(i int) string {
	return fmt.Sprintf(`data: {"choices":[{"index":0,"delta":{"content":"w%d "}}]}`+"\n\n", i)
}

// TestEventsLeaveOneByOne: LLM-36. The next event is sent only when the one
// before was seen, so nothing may be kept back or merged; the first byte leaves
// ahead of the first event.
func TestEventsLeaveOneByOne(t *testing.T) {
	t.Parallel()
	const n = 200
	var events []string
	for i := range n {
		events = append(events, textChunk(i))
	}
	events = append(events, usageChunk, doneEvent)
	for _, tt := range []struct {
		name, body string
		want       []string
	}{
		{"usage not asked for", helloStream, append(slices.Clone(events[:n]), doneEvent)},
		{"usage asked for", strings.Replace(helloStream, "{", `{"stream_options":{"include_usage":true},`, 1), events},
	} {
		next := make(chan struct{}, 10)
		f := startAt(t, sse(t, events, next), nil)
		w := f.dial()
		w.raw(strings.ReplaceAll(chatHead(tt.body), "\n", "\r\n") + tt.body)
		for l := w.line(); l != ""; l = w.line() { // the head is here before any event was sent
		}
		next <- struct{}{}
		for i, want := range tt.want {
			if i == n-1 { // the usage chunk that may be dropped comes with the one behind it
				next <- struct{}{}
			}
			if got := w.chunk(); got != want {
				t.Fatalf("%s: chunk %d is %q, want %q", tt.name, i, got, want)
			}
			next <- struct{}{}
		}
		if w.line() != "0" || w.line() != "" {
			t.Errorf("%s: the stream did not end", tt.name)
		}
		w.alive()
	}
}

// TestStreamSplits: wherever the upstream's bytes are cut, the relay is byte for
// byte what it is uncut, and the usage the same.
func TestStreamSplits(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for _, tt := range []struct{ path, quirk string }{
		{"chat/completions", ""},
		{"responses", ""},
		{"chat/completions", "crlf,keepalive"},
		{"chat/completions", "nested_usage,continuous_usage,nospace"},
	} {
		t.Run(tt.path+" "+tt.quirk, func(t *testing.T) {
			want := ""
			for split := range 65 {
				if tt.path+tt.quirk != "chat/completions" && split > 12 && split < 64 {
					continue // one of them in every cut is enough
				}
				header := []string{"Authorization", "Bearer " + callKey, "X-Mock-Tokens", "1234,5678,7,8", "X-Mock-Chunks", "1"}
				if tt.quirk != "" {
					header = append(header, "X-Mock-Quirk", tt.quirk)
				}
				if split > 0 {
					header = append(header, "X-Mock-Split", strconv.Itoa(split))
				}
				body := `{"model":"demo-chat","stream":true,"messages":[{"role":"user","content":"hi"}],"prompt":"hi","input":"hi"}`
				r := f.do("POST", "/v1/"+tt.path, body, header...)
				got := volatile.ReplaceAllString(r.body, "$1")
				if split == 0 {
					want = got
				}
				if r.StatusCode != 200 || got != want || want == "" {
					t.Fatalf("split %d: %d\n%s\nwant\n%s", split, r.StatusCode, got, want)
				}
				f.mu.Lock()
				rec := f.records[len(f.records)-1]
				f.mu.Unlock()
				if rec.Units[usage.InputToken] != 1234 || rec.Units[usage.OutputToken] != 5678 || rec.Units[usage.Token] != 6912 || rec.Has(usage.Incomplete) || rec.Basis != usage.BasisUpstream {
					t.Fatalf("split %d: %+v", split, rec)
				}
			}
		})
	}
}

// TestIncludeUsage: LLM-34, LLM-35, LLM-13. Whatever the client says of
// include_usage, the upstream is asked for it; the extra chunk reaches only who
// asked; every other byte of the request stands.
func TestIncludeUsage(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for _, tt := range []struct {
		name, options string
		sent          string // what the upstream is to get; empty: stream_options as given
		chunk         bool
	}{
		{"absent", "", `"stream_options":{"include_usage":true},`, false},
		{"false", `"stream_options":{"include_usage":false},`, `"stream_options":{"include_usage":true},`, false},
		{"true", `"stream_options": { "include_usage" : true } ,`, "", true},
		{"null", `"stream_options":{"include_usage":null},`, `"stream_options":{"include_usage":true},`, false},
		{"options null", `"stream_options":null,`, `"stream_options":{"include_usage":true},`, false},
		{"options empty", `"stream_options":{},`, `"stream_options":{"include_usage":true},`, false},
		{"other options", `"stream_options":{"a":[1,{"b":2}], "include_usage":false,"include_obfuscation":false},`, `"stream_options":{"include_usage":true,"a":[1,{"b":2}],"include_obfuscation":false},`, false},
		{"a text", `"stream_options":{"include_usage":"true"},`, `"stream_options":{"include_usage":true},`, false},
		{"escaped", `"stream_options":{"include\u005fusage":false},`, `"stream_options":{"include_usage":true},`, false},
	} {
		head, tail := "{", `"model":"demo-chat","stream":true,"x":1.0e+2,"messages":[{"role":"user","content":"h\u00e9 \n"}]}`
		r := f.chat(head+tt.options+tail, "X-Mock-Record", "1")
		if r.StatusCode != 200 || !strings.HasSuffix(r.body, doneEvent) {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
			continue
		}
		if got := strings.Contains(r.body, `"choices":[],"usage":`); got != tt.chunk || got && !strings.HasSuffix(r.body, "}}\n\n"+doneEvent) {
			t.Errorf("%s: the usage chunk was delivered: %v", tt.name, got)
		}
		want := tt.sent
		if want == "" {
			want = tt.options
		}
		if last := f.last(t); last.Body != head+want+tail {
			t.Errorf("%s: the upstream got\n%s\nwant\n%s", tt.name, last.Body, head+want+tail)
		}
	}
	for i := range 9 {
		if rec := f.record(i); rec.Units[usage.Token] != 46 {
			t.Errorf("call %d used %v", i, rec.Units)
		}
	}
	// Not streamed: ignored and no error (LLM-13), though upstreams take it for
	// one.
	for _, options := range []string{"5", `{"include_usage":false}`, `{"include_usage":1,"Include_Usage":2}`, "null"} {
		body := func(o string) string { return `{"stream":null, "stream_options" : ` + o + ` ,` + hello[1:] }
		if r := f.chat(body(options), "X-Mock-Record", "1"); r.StatusCode != 200 {
			t.Errorf("%s: %d %s", options, r.StatusCode, r.body)
		} else if last := f.last(t); last.Body != body("null") {
			t.Errorf("the upstream got %s", last.Body)
		}
	}
}

// last is the last request the mock recorded.
func (f *fixture) last(t testing.TB) (e struct{ Body string }) {
	t.Helper()
	resp, err := http.Get(f.mockURL + "/mock/last")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestUpstreamQuirks: what real upstreams do to usage (gateway-wire 5.3).
func TestUpstreamQuirks(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	n := 0
	for _, tt := range []struct {
		quirk      string
		total      int64
		basis      usage.Basis
		incomplete bool
	}{
		{"continuous_usage", 46, usage.BasisUpstream, false},
		{"continuous_usage,null_tokens", 46, usage.BasisUpstream, false},
		{"usage_in_finish", 46, usage.BasisUpstream, false},
		{"force_usage", 46, usage.BasisUpstream, false},
		{"nested_usage", 46, usage.BasisUpstream, false},
		{"keepalive,crlf,nospace", 46, usage.BasisUpstream, false},
		{"null_usage", 0, usage.BasisEstimated, false},
		{"no_done", 46, usage.BasisUpstream, true},
		{"error_midstream", 0, usage.BasisEstimated, true},
	} {
		r := f.do("POST", "/v1/chat/completions", helloStream, "Authorization", "Bearer "+tokenKey, "X-Mock-Quirk", tt.quirk)
		rec := f.record(n)
		n++
		if r.StatusCode != 200 || rec.Charged(usage.Token) != tt.total || rec.Basis != tt.basis || rec.Has(usage.Incomplete) != tt.incomplete || !rec.Has(usage.Counted|usage.Streamed) {
			t.Errorf("%s: %d %+v", tt.quirk, r.StatusCode, rec)
		}
		if strings.Contains(r.body, `"choices":[],"usage":{`) {
			t.Errorf("%s: the usage chunk reached the client: %s", tt.quirk, r.body)
		}
		// The same, not streamed.
		if strings.Contains(tt.quirk, "usage") || strings.Contains(tt.quirk, "keepalive") {
			r := f.do("POST", "/v1/chat/completions", hello, "Authorization", "Bearer "+tokenKey, "X-Mock-Quirk", strings.TrimSuffix(tt.quirk, ",null_tokens"))
			rec := f.record(n)
			n++
			if r.StatusCode != 200 || rec.Charged(usage.Token) != tt.total || rec.Basis != tt.basis {
				t.Errorf("%s, not streamed: %d %+v", tt.quirk, r.StatusCode, rec)
			}
			want := fmt.Sprintf("token=%d;basis=%s", tt.total, tt.basis)
			if got := r.Header.Get("X-Tollgate-Charged"); got != want {
				t.Errorf("%s: charged %q, want %q", tt.quirk, got, want)
			}
		}
	}
}

// TestEventShapes: streams as no mock writes them arrive byte for byte, and
// their usage is read.
func TestEventShapes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3000)
	const u = `{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}`
	for _, tt := range []struct {
		name, stream string
		dropped      string // of it
		total        int64
		incomplete   bool
	}{
		{"data over several lines", textChunk(1) + "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":12,\ndata: \"completion_tokens\":34}}\n\n" + doneEvent, "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":12,\ndata: \"completion_tokens\":34}}\n\n", 46, false},
		{"other fields", "id: 1\nevent: message\nretry: 5\ndata: " + u + "\n\n: comment\n\n" + doneEvent, "id: 1\nevent: message\nretry: 5\ndata: " + u + "\n\n", 46, false},
		{"comment within the event", ": hi\ndata: " + u + "\n\n" + doneEvent, ": hi\ndata: " + u + "\n\n", 46, false},
		{"mixed line ends", "data: {}\r\n\n" + "data: " + u + "\n\r\n" + "data: [DONE]\r\n\r\n", "data: " + u + "\n\r\n", 46, false},
		{"lines end in CR", "data: {}\r\rdata: " + u + "\r\rdata: [DONE]\r\r", "data: " + u + "\r\r", 46, false},
		{"CR, CRLF and LF", "data: {}\r\r\ndata: " + u + "\r\n\rdata: [DONE]\n\r\n", "data: " + u + "\r\n\r", 46, false},
		{"usage over lines that end in CR", "data: {\"choices\":[],\rdata: \"usage\":{\"prompt_tokens\":12,\rdata: \"completion_tokens\":34}}\r\r" + doneEvent, "data: {\"choices\":[],\rdata: \"usage\":{\"prompt_tokens\":12,\rdata: \"completion_tokens\":34}}\r\r", 46, false},
		{"event past its limit, lines end in CR", "data: " + long + "\r\r" + strings.ReplaceAll(usageChunk, "\n", "\r") + doneEvent, strings.ReplaceAll(usageChunk, "\n", "\r"), 46, false},
		{"byte order mark", "\ufeffdata: " + u + "\n\n" + doneEvent, "\ufeffdata: " + u + "\n\n", 46, false},
		{"no blank line at the end", textChunk(1) + "data: " + u + "\n\ndata: [DONE]", "data: " + u + "\n\n", 46, false},
		{"usage at the end without a blank line", textChunk(1) + "data: " + u, "data: " + u, 46, true},
		{"usage before content", "data: " + u + "\n\n" + textChunk(1) + doneEvent, "data: " + u + "\n\n", 46, false},
		{"usage with an empty list spelled out", `data: {"choices": [ ],"usage":{"total_tokens":5}}` + "\n\n" + doneEvent, `data: {"choices": [ ],"usage":{"total_tokens":5}}` + "\n\n", 5, false},
		{"usage without choices", `data: {"usage":{"total_tokens":5}}` + "\n\n" + doneEvent, "", 5, false},
		{"usage with content", `data: {"choices":[{"delta":{}}],"usage":{"total_tokens":5}}` + "\n\n" + doneEvent, "", 5, false},
		{"empty choices without usage", `data: {"choices":[],"prompt_filter_results":[]}` + "\n\n" + `data: {"choices":[],"usage":null}` + "\n\n" + doneEvent, "", 0, false},
		{"word in content", `data: {"choices":[{"delta":{"content":"\"usage\":{\"total_tokens\":9}"}}]}` + "\n\n" + doneEvent, "", 0, false},
		{"object in content", `data: {"choices":[{"delta":{"x":{"usage":{"total_tokens":9}}}}]}` + "\n\n" + doneEvent, "", 0, false},
		{"no JSON", "data: hello\n\ndata: {\"usage\"\n\ndata:\n\n\n\n" + doneEvent, "", 0, false},
		{"event past its limit", "data: " + long + `{"choices":[],"usage":{"total_tokens":9}}` + "\n\n" + usageChunk + doneEvent, usageChunk, 46, false},
		{"event past its limit in lines", strings.Repeat("data: "+long[:500]+"\n", 9) + "\n" + usageChunk + doneEvent, usageChunk, 46, false},
		{"huge comment", ": " + long + "\n\n" + usageChunk + doneEvent, usageChunk, 46, false},
		{"nothing", "", "", 0, true},
		{"blank lines", "\n\n\r\n\n", "", 0, true},
	} {
		for _, size := range []int{1 << 20, 1, 7, 100} {
			t.Run(fmt.Sprintf("%s cut at %d", tt.name, size), func(t *testing.T) {
				t.Parallel()
				var parts []string
				for s := tt.stream; len(s) > 0; s = s[min(size, len(s)):] {
					parts = append(parts, s[:min(size, len(s))])
				}
				f := startAt(t, sse(t, parts, nil), func(c *gateway.Config, _ *directory.Snapshot) { c.MaxEvent = 2000 })
				r := f.do("POST", "/v1/chat/completions", helloStream, "Authorization", "Bearer "+tokenKey)
				if want := strings.Replace(tt.stream, tt.dropped, "", 1); r.StatusCode != 200 || r.body != want {
					t.Errorf("%d %q\nwant %q", r.StatusCode, r.body, want)
				}
				rec := f.record(0)
				if rec.Charged(usage.Token) != tt.total || rec.Has(usage.Incomplete) != tt.incomplete {
					t.Errorf("%+v", rec)
				}
				if d := int64(len(r.body)) - rec.BytesOut; d < 0 || d > 3 { // line ends behind that of the last line follow the settlement
					t.Errorf("%d bytes recorded, %d came", rec.BytesOut, len(r.body))
				}
			})
		}
	}
}

// TestAnthropicUsage: amounts of several events are put together, not summed
// and not overwritten (gateway-wire 5.2).
func TestAnthropicUsage(t *testing.T) {
	t.Parallel()
	events := []string{
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n",
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n",
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
	}
	f := startAt(t, sse(t, events, nil), nil)
	r := f.do("POST", "/v1/messages", `{"model":"demo-chat","stream":true}`, "X-Api-Key", tokenKey)
	if r.StatusCode != 200 || r.body != strings.Join(events, "") {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	rec := f.record(0)
	if rec.Units[usage.InputToken] != 32 || rec.Units[usage.OutputToken] != 15 || rec.Units[usage.Token] != 47 || rec.Cached != 4 || rec.Has(usage.Incomplete) {
		t.Errorf("%+v", rec)
	}
}
