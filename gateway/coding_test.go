package gateway_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// pack compresses text.
func pack(t testing.TB, coding, text string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip", "x-gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	case "raw deflate": // what some servers send under the name of deflate
		w, _ = flate.NewWriter(&b, flate.DefaultCompression)
	case "br":
		w = brotli.NewWriter(&b)
	case "zstd":
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var codings = []string{"gzip", "deflate", "br", "zstd"}

// TestCompressedJSON: the usage of a compressed answer is read, its bytes are
// not touched.
func TestCompressedJSON(t *testing.T) {
	t.Parallel()
	const text = `{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}`
	for _, coding := range append(codings, "x-gzip", "raw deflate") {
		packed := pack(t, coding, text)
		name := strings.TrimPrefix(coding, "raw ")
		f := startAt(t, upstreamOf(t, func(p *peer) {
			for {
				req, _, err := p.request()
				if err != nil {
					return
				}
				if ae := req.Header.Values("Accept-Encoding"); len(ae) != 1 || ae[0] != "identity" {
					t.Errorf("the upstream was asked for %q", ae)
				}
				p.say("HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Encoding: %s\nContent-Length: %d\n\n", name, len(packed))
				_, _ = io.WriteString(p, packed)
			}
		}), nil)
		r := f.do("POST", "/v1/chat/completions", hello, "Authorization", "Bearer "+tokenKey, "Accept-Encoding", "gzip, br")
		if r.StatusCode != 200 || r.body != packed || r.Header.Get("Content-Encoding") != name || r.Header.Get("X-Tollgate-Charged") != "token=46;basis=upstream" {
			t.Errorf("%s: %d %v", coding, r.StatusCode, r.Header)
		}
	}
	// What cannot be unpacked passes, unmetered but marked so.
	for _, coding := range []string{"gzip", "unknown", "gzip, br"} {
		f := startAt(t, answering(t, "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Encoding: "+coding+"\nContent-Length: 4\n\nxxxx"), nil)
		r := f.do("POST", "/v1/chat/completions", hello, "Authorization", "Bearer "+tokenKey)
		if r.StatusCode != 200 || r.body != "xxxx" || r.Header.Get("X-Tollgate-Charged") != "token=0;basis=floor" {
			t.Errorf("%s: %d %v %q", coding, r.StatusCode, r.Header, r.body)
		}
	}
}

// TestCompressedStream: a compressed stream is unpacked for its usage, and each
// event leaves as it comes.
func TestCompressedStream(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	want := ""
	for i, coding := range append([]string{""}, codings...) {
		header := []string{"X-Mock-Chunks", "5"}
		if coding != "" {
			header = append(header, "X-Mock-Encoding", coding)
		}
		r := f.chat(helloStream, header...)
		got := volatile.ReplaceAllString(r.body, "$1")
		if want == "" {
			want = got
		}
		if r.StatusCode != 200 || got != want || r.Header.Get("Content-Encoding") != "" || !strings.HasSuffix(got, doneEvent) {
			t.Errorf("%s: %d %v %s", coding, r.StatusCode, r.Header, got)
		}
		if rec := f.record(i); rec.Units[usage.Token] != 46 || rec.Has(usage.Incomplete) {
			t.Errorf("%s: %+v", coding, rec)
		}
	}
}

// TestCompressedEventsLeaveAtOnce: unpacking does not hold back what can be
// unpacked.
func TestCompressedEventsLeaveAtOnce(t *testing.T) {
	t.Parallel()
	for _, coding := range codings {
		t.Run(coding, func(t *testing.T) {
			t.Parallel()
			next := make(chan struct{}, 1)
			f := startAt(t, upstreamOf(t, func(p *peer) {
				if _, _, err := p.request(); err != nil {
					return
				}
				p.say("HTTP/1.1 200 OK\nContent-Type: text/event-stream\nContent-Encoding: %s\n\n", coding)
				var w interface {
					io.Writer
					Flush() error
				}
				switch coding {
				case "gzip":
					w = gzip.NewWriter(p)
				case "deflate":
					w = zlib.NewWriter(p)
				case "br":
					w = brotli.NewWriter(p)
				case "zstd":
					w, _ = zstd.NewWriter(p)
				}
				for i := range 20 {
					_, _ = io.WriteString(w, textChunk(i))
					_ = w.Flush()
					if _, ok := <-next; !ok {
						return
					}
				}
				_, _ = io.WriteString(w, usageChunk+doneEvent)
				_ = w.(io.Closer).Close()
			}), nil)
			defer close(next)
			w := f.dial()
			w.send(chatHead(helloStream) + helloStream)
			for l := w.line(); l != ""; l = w.line() {
			}
			for i := range 20 {
				if got := w.chunk(); got != textChunk(i) {
					t.Fatalf("event %d: %q", i, got)
				}
				next <- struct{}{}
			}
			if got := w.chunk(); got != doneEvent {
				t.Fatalf("the end: %q", got)
			}
			if rec := f.record(0); rec.Units[usage.Token] != 46 || rec.Has(usage.Incomplete) {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// TestCompressedRequest: a packed request of an LLM product is unpacked, since
// what cannot be read cannot be metered; of an API product it passes.
func TestCompressedRequest(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) { c.MaxBody = 5000 })
	for _, coding := range append(codings, "raw deflate") {
		packed := pack(t, coding, helloStream)
		name := strings.TrimPrefix(coding, "raw ")
		r := f.chat(packed, "Content-Encoding", name, "X-Mock-Record", "1")
		if r.StatusCode != 200 || !strings.HasSuffix(r.body, doneEvent) {
			t.Errorf("%s: %d %s", coding, r.StatusCode, r.body)
			continue
		}
		if got := f.last(t).Body; !strings.Contains(got, `"include_usage":true`) {
			t.Errorf("%s: the upstream got %q", coding, got)
		}
		r = f.do("POST", "/demo/weather", packed, "X-Apig-AppCode", appCode, "Content-Encoding", name)
		if e := r.echo(t); r.StatusCode != 200 || e.BodyBytes != len(packed) || e.Headers["Content-Encoding"][0] != name {
			t.Errorf("%s: %d %+v", coding, r.StatusCode, e)
		}
	}
	for _, tt := range []struct {
		name, coding, body string
		status             int
	}{
		{"not what it says", "gzip", "xxxx", 400},
		{"cut off", "gzip", pack(t, "gzip", hello)[:30], 400},
		{"unknown", "lzma", hello, 400},
		{"several", "gzip, br", hello, 400},
		{"identity", "identity", hello, 200},
		{"a bomb", "gzip", pack(t, "gzip", strings.Repeat(" ", 1<<20)+hello), 413},
		{"a bomb of zstd", "zstd", pack(t, "zstd", strings.Repeat(" ", 1<<20)+hello), 413},
	} {
		if r := f.chat(tt.body, "Content-Encoding", tt.coding); r.StatusCode != tt.status {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
	}
	_ = http.StatusOK
}

// TestLongPlainAnswer: usage is found at either end of an answer too long to be
// kept, and not in an echo inside it.
func TestLongPlainAnswer(t *testing.T) {
	t.Parallel()
	pad := `"x":"` + strings.Repeat(`{\"usage\":{\"total_tokens\":9}} `, 5000) + `","y":{"usage":{"total_tokens":7}},"z":[{"usage":{"total_tokens":8}}]`
	const u = `"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}`
	for name, text := range map[string]string{
		"in front": "{" + u + "," + pad + "}",
		"behind":   "{" + pad + "," + u + "}",
		"none":     "{" + pad + "}",
	} {
		for _, coding := range []string{"", "gzip", "unknown"} {
			body, head := text, "HTTP/1.1 200 OK\nContent-Type: application/json\n"
			if coding != "" {
				head += "Content-Encoding: " + coding + "\n"
			}
			if coding == "gzip" {
				body = pack(t, coding, text)
			}
			for _, buffer := range []int{100, 1 << 20} { // relayed as it comes, and read whole
				f := startAt(t, answering(t, head+"Content-Length: "+itoa(len(body))+"\n\n"+body), func(c *gateway.Config, _ *directory.Snapshot) { c.MaxAnswerBuffer = buffer })
				r := f.do("POST", "/v1/embeddings", `{"model":"demo-chat","input":"x"}`, "Authorization", "Bearer "+tokenKey)
				if r.StatusCode != 200 || r.body != body {
					t.Errorf("%s %s: %d, %d bytes", name, coding, r.StatusCode, len(r.body))
				}
				want := int64(46)
				if name == "none" || coding == "unknown" {
					want = 0
				}
				if rec := f.record(0); rec.Charged(usage.Token) != want || (rec.Basis == usage.BasisUpstream) != (want > 0) {
					t.Errorf("%s %q buffer %d: %+v", name, coding, buffer, rec)
				}
			}
		}
	}
}
