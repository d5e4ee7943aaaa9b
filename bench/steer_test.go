package bench

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
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

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
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

// TestUsage walks the answers that are not streamed.
func TestUsage(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	for _, tt := range []struct {
		path, body string
		steer      []string
		want       string // prefix of the usage; "" means none, "null" null
	}{
		{"/v1/chat/completions", chatBody, nil, `{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,`},
		{"/v1/chat/completions", chatBody, []string{"Tokens: 5,7,3,2"}, `{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}}`},
		{"/v1/infers/01ABC/v1/chat/completions", chatBody, nil, `{"prompt_tokens":12,`},
		{"/chat/completions", chatBody, nil, `{"prompt_tokens":12,`},
		{"/v1/completions", `{"model":"m","prompt":"x"}`, nil, `{"prompt_tokens":12,"completion_tokens":34,`},
		{"/v1/embeddings", `{"model":"m","input":"x"}`, nil, `{"prompt_tokens":12,"total_tokens":12}`},
		{"/v1/responses", `{"model":"m","input":"x"}`, nil, `{"input_tokens":12,"output_tokens":34,"total_tokens":46,"input_tokens_details":{"cached_tokens":0},"output_tokens_details":{"reasoning_tokens":0}}`},
		{"/v1/chat/completions", chatBody, []string{"Usage: none"}, ""},
		{"/v1/responses", `{"model":"m","input":"x"}`, []string{"Usage: none"}, ""},
		{"/v1/chat/completions", chatBody, []string{"Quirk: null_usage"}, "null"},
		{"/v1/chat/completions", chatBody, []string{"Quirk: nested_usage"}, `{"prompt_tokens":12,`},
		{"/v1/responses", `{"model":"m","input":"x"}`, []string{"Quirk: nested_usage"}, `{"input_tokens":12,`},
		{"/v1/chat/completions", chatBody, []string{"Quirk: keepalive"}, `{"prompt_tokens":12,`},
		{"/v1/chat/completions", chatBody, []string{"Chunked: 1"}, `{"prompt_tokens":12,`},
		{"/v1/chat/completions", chatBody, []string{"Split: 7"}, `{"prompt_tokens":12,`},
		{"/v1/chat/completions", chatBody, []string{"Size: 100000"}, `{"prompt_tokens":12,`},
	} {
		u.Reset()
		resp, b, err := call(t, "POST", url+tt.path, tt.body, tt.steer...)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s %v: %v %s", tt.path, tt.steer, err, b)
		}
		got := usageOf(t, string(b))
		if (got == nil) != (tt.want == "") || got != nil && !strings.HasPrefix(*got, tt.want) {
			t.Errorf("%s %v: %s", tt.path, tt.steer, b)
		}
		s := u.Stats()
		if reported := tt.want != "" && tt.want != "null"; (s.NoUsage == 0) != reported || (s.Usage.TotalTokens > 0) != reported {
			t.Errorf("%s %v: %+v", tt.path, tt.steer, s)
		}
		if len(tt.steer) > 0 && strings.Contains(tt.steer[0], "nested") && bytes.Count(b, []byte(`"usage":{`)) < 3 {
			t.Errorf("no decoys: %s", b)
		}
		if len(tt.steer) > 0 && tt.steer[0] == "Size: 100000" && len(b) < 100000 {
			t.Errorf("%d bytes", len(b))
		}
	}
}

// TestStreams holds every stream to the events it must consist of.
func TestStreams(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	for _, tt := range []struct {
		name, body string
		steer      []string
		events     int      // with [DONE]
		figures    int      // chunks with a usage figure
		nulls      int      // chunks with "usage":null
		last       string   // prefix of the last figure
		unlike     []string // must not occur
	}{
		{"not asked", streamBody, nil, 13, 0, 0, "", []string{"usage"}},
		{"asked", withUsage, nil, 14, 1, 12, `{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46`, nil},
		{"asked, other figures", withUsage, []string{"Tokens: 1000,2000", "Chunks: 3"}, 7, 1, 5, `{"prompt_tokens":1000,"completion_tokens":2000,"total_tokens":3000`, nil},
		{"asked, none given", withUsage, []string{"Usage: none"}, 13, 0, 0, "", []string{"usage"}},
		{"no text", withUsage, []string{"Chunks: 0"}, 4, 1, 2, `{"prompt_tokens":12,`, nil},
		{"200 chunks", streamBody, []string{"Chunks: 200"}, 203, 0, 0, "", nil},
		{"continuous", streamBody, []string{"Quirk: continuous_usage"}, 13, 12, 0, `{"prompt_tokens":12,"completion_tokens":34,`, nil},
		{"continuous, asked", withUsage, []string{"Quirk: continuous_usage"}, 14, 13, 0, `{"prompt_tokens":12,"completion_tokens":34,`, nil},
		{"in the finish chunk", streamBody, []string{"Quirk: usage_in_finish"}, 13, 1, 0, `{"prompt_tokens":12,"completion_tokens":34,`, []string{`"choices":[]`}},
		{"forced", streamBody, []string{"Quirk: force_usage"}, 14, 1, 12, `{"prompt_tokens":12,"completion_tokens":34,`, nil},
		{"null only", withUsage, []string{"Quirk: null_usage"}, 13, 0, 12, "", nil},
		{"decoys", withUsage, []string{"Quirk: nested_usage"}, 14, 1, 12, `{"prompt_tokens":12,"completion_tokens":34,`, nil},
		{"decoys, not asked", streamBody, []string{"Quirk: nested_usage"}, 13, 0, 0, "", nil},
		{"null tokens", streamBody, []string{"Quirk: continuous_usage,null_tokens"}, 13, 12, 0, `{"prompt_tokens":12,"completion_tokens":34,`, nil},
		{"keep-alive comments", withUsage, []string{"Quirk: keepalive"}, 14, 1, 12, `{"prompt_tokens":12,`, nil},
		{"CRLF", withUsage, []string{"Quirk: crlf"}, 14, 1, 12, `{"prompt_tokens":12,`, nil},
		{"no blank after the colon", withUsage, []string{"Quirk: nospace"}, 14, 1, 12, `{"prompt_tokens":12,`, []string{"data: "}},
		{"no [DONE]", withUsage, []string{"Quirk: no_done"}, 13, 1, 12, `{"prompt_tokens":12,`, []string{"[DONE]"}},
		{"split", withUsage, []string{"Split: 7"}, 14, 1, 12, `{"prompt_tokens":12,`, nil},
		{"split in ones, CRLF", withUsage, []string{"Split: 1", "Quirk: crlf"}, 14, 1, 12, `{"prompt_tokens":12,`, nil},
		{"with a trailer", withUsage, []string{"Trailer: X-Sum=abc"}, 14, 1, 12, `{"prompt_tokens":12,`, nil},
		{"delayed", withUsage, []string{"Chunk-Delay: 1ms"}, 14, 1, 12, `{"prompt_tokens":12,`, nil},
		{"sized", streamBody, []string{"Size: 50000", "Chunks: 3"}, 6, 0, 0, "", nil},
		{"stopped with an error", withUsage, []string{"Quirk: error_midstream"}, 7, 0, 6, "", []string{"[DONE]"}},
		{"status 201", withUsage, []string{"Status: 201"}, 14, 1, 12, `{"prompt_tokens":12,`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u.Reset()
			resp, b, err := call(t, "POST", url+"/v1/chat/completions", tt.body, tt.steer...)
			if err != nil || resp.StatusCode/100 != 2 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
				t.Fatalf("%v %+v", err, resp)
			}
			data := events(t, b)
			figures, nulls, last := 0, 0, ""
			for _, d := range data {
				if d == "[DONE]" || strings.HasPrefix(d, `{"error"`) {
					continue
				}
				switch got := usageOf(t, d); {
				case got == nil:
				case *got == "null":
					nulls++
				default:
					figures++
					last = *got
				}
			}
			if len(data) != tt.events || figures != tt.figures || nulls != tt.nulls || !strings.HasPrefix(last, tt.last) {
				t.Errorf("%d events, %d figures, %d nulls, last %s; want %d, %d, %d, %s\n%s",
					len(data), figures, nulls, last, tt.events, tt.figures, tt.nulls, tt.last, b)
			}
			for _, s := range tt.unlike {
				if bytes.Contains(b, []byte(s)) {
					t.Errorf("%q occurs in\n%s", s, b)
				}
			}
			s := u.Stats()
			if s.Streams != 1 || s.Finished != 1 || s.Active != 0 || (s.NoUsage == 0) != (tt.figures > 0) {
				t.Errorf("%+v", s)
			}
			if tt.name == "with a trailer" && resp.Trailer.Get("X-Sum") != "abc" {
				t.Errorf("trailers %v", resp.Trailer)
			}
		})
	}
}

func TestCompletionStream(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	_, b, err := call(t, "POST", url+"/v1/completions", `{"model":"m","prompt":"x","stream":true,"stream_options":{"include_usage":true}}`, "Chunks: 4")
	if err != nil {
		t.Fatal(err)
	}
	data := events(t, b)
	if len(data) != 4+1+1+1 || !strings.Contains(data[0], `"object":"text_completion"`) || usageOf(t, data[5]) == nil {
		t.Errorf("%s", b)
	}
}

// TestResponsesStream holds the Responses API to its order of events.
func TestResponsesStream(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	resp, b, err := call(t, "POST", url+"/v1/responses", `{"model":"m","input":"x","stream":true}`, "Chunks: 2", "Tokens: 3,4")
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err)
	}
	var names []string
	var numbers []int
	var last struct {
		Response struct {
			Status string
			Usage  struct {
				Input  int `json:"input_tokens"`
				Output int `json:"output_tokens"`
			}
		}
	}
	for block := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
		event, data, ok := strings.Cut(block, "\n")
		if !ok {
			t.Fatalf("block %q", block)
		}
		var e struct {
			Type     string
			Sequence int `json:"sequence_number"`
		}
		data = strings.TrimPrefix(data, "data: ")
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		if "event: "+e.Type != event {
			t.Errorf("%s carries type %s", event, e.Type)
		}
		names, numbers = append(names, e.Type), append(numbers, e.Sequence)
		if e.Type == "response.completed" {
			if err := json.Unmarshal([]byte(data), &last); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{
		"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
		"response.output_text.delta", "response.output_text.delta", "response.output_text.done",
		"response.content_part.done", "response.output_item.done", "response.completed",
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, numbers); d != "" {
		t.Error(d)
	}
	if last.Response.Status != "completed" || last.Response.Usage.Input != 3 || last.Response.Usage.Output != 4 {
		t.Errorf("%+v", last)
	}
	if s := u.Stats(); s.Usage.TotalTokens != 7 || s.NoUsage != 0 {
		t.Errorf("%+v", s)
	}
}

// TestEncodings decodes every encoding, whole and as a stream, and checks that
// a stream can be read as far as it has come.
func TestEncodings(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	readers := map[string]func(io.Reader) (io.Reader, error){
		"gzip":    func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"deflate": func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) },
		"br":      func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil },
		"zstd":    func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) },
	}
	decode := func(name string, b []byte) ([]byte, error) {
		r, err := readers[name](bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	for name := range readers {
		for _, split := range []string{"Chunk-Delay: 0s", "Split: 7"} {
			resp, b, err := call(t, "POST", url+"/v1/chat/completions", chatBody, "Encoding: "+name, split)
			if err != nil || resp.Header.Get("Content-Encoding") != name {
				t.Fatalf("%s: %v %v", name, err, resp)
			}
			plain, err := decode(name, b)
			if err != nil || usageOf(t, string(plain)) == nil {
				t.Errorf("%s: %v %s", name, err, plain)
			}
			_, b, err = call(t, "POST", url+"/v1/chat/completions", withUsage, "Encoding: "+name, split)
			if err != nil {
				t.Fatal(err)
			}
			plain, err = decode(name, b)
			if err != nil || len(events(t, plain)) != 14 {
				t.Errorf("%s, streamed: %v %s", name, err, plain)
			}
		}
		// Cut off after three events, those three can be read.
		_, b, err := call(t, "POST", url+"/v1/chat/completions", withUsage, "Encoding: "+name, "Break: 3")
		if err == nil {
			t.Errorf("%s: the break cannot be seen", name)
		}
		plain, _ := decode(name, b) // the end is missing, so it fails; what came before counts
		if n := strings.Count(string(plain), "\n\n"); n < 3 {
			t.Errorf("%s: %d events of 3 can be read: %s", name, n, plain)
		}
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

// TestBadBodies: the mock is as strict as a real server, so that a gateway
// which mangles a body is found out.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	for _, body := range []string{
		"", "{", "[]", `"x"`, `{"messages":[]}`, `{"model":""}`, `{"model":1}`, `{"model":"a","model":"b"}`,
		`{"model":"m","stream":"yes"}`, `{"model":"m","stream":true,"stream":false}`,
		`{"model":"m","stream":true,"stream_options":{},"stream_options":{"include_usage":true}}`,
		`{"model":"m","stream":true,"stream_options":{"include_usage":false,"include_usage":true}}`,
		`{"model":"m","stream":true,"stream_options":7}`, `{"model":"m","stream_options":{"include_usage":true}}`,
		`{"model":"m","stream":false,"stream_options":{"include_usage":true}}`, `{"model":"m"} x`,
	} {
		resp, b, err := call(t, "POST", url+"/v1/chat/completions", body)
		if err != nil || resp.StatusCode != 400 || !json.Valid(b) {
			t.Errorf("%s: %v %s", body, resp, b)
		}
	}
	for _, body := range []string{
		`{"model":"m","stream_options":null}`, `{"model":"m","stream":null}`, `{"model":"m","stream":true,"stream_options":{"include_obfuscation":false}}`,
	} {
		if resp, b, err := call(t, "POST", url+"/v1/chat/completions", body); err != nil || resp.StatusCode != 200 {
			t.Errorf("%s: %v %s", body, resp, b)
		}
	}
	if resp, _, err := call(t, "GET", url+"/v1/chat/completions", ""); err != nil || resp.StatusCode != 405 {
		t.Errorf("GET: %v %v", resp, err)
	}
}

func TestEcho(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"} {
		req, err := http.NewRequestWithContext(t.Context(), method, url+"/demo//weather/%2e/a%2Fb?x=1&y=a+b&x=2", strings.NewReader("body \x00"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header["X-Two"] = []string{"b", "a"}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		var e Echo
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&e), resp.Body.Close())
		if err != nil {
			t.Fatal(err)
		}
		if e.Method != method || e.Path != "/demo//weather/%2e/a%2Fb" || e.Query != "x=1&y=a+b&x=2" || e.Body != "body \x00" ||
			e.BodyBytes != 6 || cmp.Diff([]string{"b", "a"}, e.Headers["X-Two"]) != "" || "http://"+e.Host != url {
			t.Errorf("%+v", e)
		}
	}
	_, b, err := call(t, "POST", url+"/x", "\xff\x00")
	if err != nil {
		t.Fatal(err)
	}
	var e Echo
	if err := json.Unmarshal(b, &e); err != nil || e.Body != "" || e.BodyBase64 != base64.StdEncoding.EncodeToString([]byte("\xff\x00")) {
		t.Errorf("%v %+v", err, e)
	}
	for _, extra := range []string{"Chunked: 0", "Split: 7"} {
		resp, b, err := call(t, "HEAD", url+"/x", "", extra)
		if err != nil || resp.StatusCode != 200 || len(b) != 0 || resp.ContentLength <= 0 {
			t.Errorf("HEAD: %v %+v %q", err, resp, b)
		}
	}
	resp, _, err := call(t, "GET", url+"/x", "", "Header: Set-Cookie: a=b", "Header: Set-Cookie: c=d", "Header: Retry-After: 1")
	if err != nil || len(resp.Header["Set-Cookie"]) != 2 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%v %v", err, resp.Header)
	}
}

func TestEmbeddings(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	var out struct {
		Data []struct {
			Index     int
			Embedding json.RawMessage
		}
	}
	for body, n := range map[string]int{
		`{"model":"m","input":"x"}`: 1, `{"model":"m","input":["x","y","z"]}`: 3, `{"model":"m","input":[1,2,3]}`: 1,
		`{"model":"m","input":[[1],[2]]}`: 2, `{"model":"m","input":["x"],"encoding_format":"base64"}`: 1,
	} {
		_, b, err := call(t, "POST", url+"/v1/embeddings", body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &out); err != nil || len(out.Data) != n {
			t.Fatalf("%s: %v %s", body, err, b)
		}
		first := out.Data[0].Embedding
		if strings.Contains(body, "base64") {
			var s string
			if err := json.Unmarshal(first, &s); err != nil {
				t.Fatal(err)
			}
			if raw, err := base64.StdEncoding.DecodeString(s); err != nil || len(raw) != 32 {
				t.Errorf("%s: %v", s, err)
			}
		} else {
			var v []float32
			if err := json.Unmarshal(first, &v); err != nil || len(v) != 8 {
				t.Errorf("%s: %v", first, err)
			}
		}
	}
}

func TestModels(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	_, b, err := call(t, "GET", url+"/v1/models", "")
	if err != nil || !strings.Contains(string(b), `"id":"demo-chat"`) || !json.Valid(b) {
		t.Errorf("%v %s", err, b)
	}
	resp, b, err := call(t, "GET", url+"/v1/models/demo-chat", "")
	if err != nil || resp.StatusCode != 200 || !json.Valid(b) {
		t.Errorf("%v %s", err, b)
	}
	resp, _, err = call(t, "GET", url+"/v1/models/none", "")
	if err != nil || resp.StatusCode != 404 {
		t.Errorf("%v %v", err, resp)
	}
}
