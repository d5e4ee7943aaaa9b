package bench

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

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
			waitActive(t, u)
			s := u.Stats()
			if s.Streams != 1 || s.Finished != 1 || (s.NoUsage == 0) != (tt.figures > 0) {
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
