package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// answers is an upstream that gives every request the same answer and keeps
// what it was sent.
type answers struct {
	url string

	mu     sync.Mutex
	bodies [][]byte
	paths  []string
}

func fixedAnswer(t testing.TB, contentType, body string) *answers {
	t.Helper()
	a := &answers{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.bodies = append(a.bodies, b)
		a.paths = append(a.paths, r.URL.RequestURI())
		a.mu.Unlock()
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

func (a *answers) last(t testing.TB) []byte {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.bodies) == 0 {
		t.Fatal("the upstream got nothing")
	}
	return a.bodies[len(a.bodies)-1]
}

func (a *answers) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.bodies)
}

// sold makes the token product count in units, with these items.
func sold(units []usage.Unit, items ...directory.Item) func(*gateway.Config, *directory.Snapshot) {
	return func(_ *gateway.Config, s *directory.Snapshot) {
		s.Subscriptions[1].Units = units
		s.Products[1].Items = items
	}
}

// TestUnits: images, seconds and characters are charged as what the answer or
// the request says, by defaults and by the product's items (LLM-41, EXT-3).
func TestUnits(t *testing.T) {
	t.Parallel()
	const sseType = "text/event-stream"
	for _, tt := range []struct {
		name, path, body   string
		contentType, reply string
		unit               usage.Unit
		items              []directory.Item
		want               int64
		basis              usage.Basis
	}{
		{name: "images", path: "/images/generations", body: `{"model":"demo-chat","n":2}`, reply: `{"created":1,"data":[{"url":"a"},{"url":"b"}]}`, unit: usage.Image, want: 2, basis: usage.BasisUpstream},
		{name: "images of two megabytes", path: "/images/generations", body: `{"prompt":"x"}`, reply: `{"data":[{"b64_json":"` + strings.Repeat("A", 2<<20) + `"},{},{}]}`, unit: usage.Image, want: 3, basis: usage.BasisUpstream},
		{name: "streamed images", path: "/images/generations", body: `{"stream":true}`, contentType: sseType, reply: "event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"x\"}\n\nevent: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"usage\":{\"input_tokens\":5,\"output_tokens\":7,\"total_tokens\":12}}\n\n", unit: usage.Image, want: 1, basis: usage.BasisUpstream},
		{name: "tokens of streamed images", path: "/images/generations", body: `{"stream":true}`, contentType: sseType, reply: "data: {\"type\":\"image_generation.completed\",\"usage\":{\"input_tokens\":5,\"output_tokens\":7,\"total_tokens\":12}}\n\n", unit: usage.Token, want: 12, basis: usage.BasisUpstream},
		{name: "no images", path: "/images/generations", body: `{}`, reply: `{"created":1}`, unit: usage.Image, want: 0, basis: usage.BasisFloor},
		{name: "characters", path: "/audio/speech", body: `{"model":"demo-chat","input":"日本語 \n\ud83d\ude00"}`, contentType: "audio/mpeg", reply: "\xff\xf3binary", unit: usage.Character, want: 6, basis: usage.BasisCounted},
		{name: "seconds", path: "/audio/transcriptions", reply: `{"text":"x","duration":3.2}`, unit: usage.Second, want: 4, basis: usage.BasisUpstream},
		{name: "seconds of usage", path: "/audio/translations", reply: `{"text":"x","usage":{"type":"duration","seconds":9}}`, unit: usage.Second, want: 9, basis: usage.BasisUpstream},
		{name: "tokens of a transcript", path: "/audio/transcriptions", reply: `{"text":"x","usage":{"type":"tokens","input_tokens":14,"output_tokens":6,"total_tokens":20}}`, unit: usage.Token, want: 20, basis: usage.BasisUpstream},
		{name: "a streamed transcript", path: "/audio/transcriptions", contentType: sseType, reply: "data: {\"type\":\"transcript.text.delta\",\"delta\":\"x\"}\n\ndata: {\"type\":\"transcript.text.done\",\"text\":\"x\",\"usage\":{\"seconds\":5}}\n\n", unit: usage.Second, want: 5, basis: usage.BasisUpstream},
		{name: "a text transcript", path: "/audio/transcriptions", contentType: "text/plain", reply: "x", unit: usage.Second, want: 0, basis: usage.BasisFloor},
		{
			name: "an item in milliseconds", path: "/agents/listen", body: `{}`, reply: `{"transcripts":[{"content_duration_in_milliseconds":1500},{"content_duration_in_milliseconds":600}]}`, unit: usage.Second, want: 3, basis: usage.BasisUpstream,
			items: []directory.Item{{Unit: usage.Second, Routes: []string{"/agents"}, From: directory.ItemAnswer, Path: "transcripts.#.content_duration_in_milliseconds", Per: 1000}},
		},
		{
			name: "tokens at a path of their own", path: "/agents/run", body: `{}`, reply: `{"meta":{"billed":77},"usage":{"total_tokens":5}}`, unit: usage.Token, want: 77, basis: usage.BasisUpstream,
			items: []directory.Item{{Unit: usage.Token, From: directory.ItemAnswer, Path: "meta.billed"}},
		},
		{
			name: "input and output at paths of their own", path: "/chat/completions", body: hello, reply: `{"u":{"i":70,"o":7}}`, unit: usage.Token, want: 77, basis: usage.BasisUpstream,
			items: []directory.Item{{Unit: usage.InputToken, From: directory.ItemAnswer, Path: "u.i"}, {Unit: usage.OutputToken, From: directory.ItemAnswer, Path: "u.o"}},
		},
		{
			name: "a fixed price", path: "/files", body: `x`, reply: `{"id":"f"}`, unit: usage.Token, want: 250, basis: usage.BasisUpstream,
			items: []directory.Item{{Unit: usage.Token, Routes: []string{"files"}, From: directory.ItemFixed, Amount: 250}},
		},
		{name: "rerank", path: "/rerank", body: `{"query":"x"}`, reply: `{"results":[],"usage":{"total_tokens":31}}`, unit: usage.Token, want: 31, basis: usage.BasisUpstream},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.contentType == "" {
				tt.contentType = "application/json"
			}
			up := fixedAnswer(t, tt.contentType, tt.reply)
			f := startAt(t, up.url, sold([]usage.Unit{tt.unit}, tt.items...))
			header := []string{"Authorization", "Bearer " + tokenKey, "Content-Type", "application/json"}
			if tt.body == "" {
				form, kind := parts(t, "file", "RIFF", "model", "demo-chat")
				tt.body, header[3] = form, kind
			}
			r := f.do("POST", "/v1/infers/"+tokenInfer+"/v1"+tt.path, tt.body, header...)
			if r.StatusCode != 200 || r.body != tt.reply {
				t.Fatalf("%d %.200s", r.StatusCode, r.body)
			}
			rec := f.record(0)
			if rec.Units[tt.unit] != tt.want || rec.Charged(tt.unit) != tt.want || rec.Basis != tt.basis || rec.Has(usage.Incomplete) {
				t.Errorf("%v %v by %s, flags %b; want %d by %s", rec.Units, rec.Charges, rec.Basis, rec.Flags, tt.want, tt.basis)
			}
		})
	}
}

// TestNeverFree: a package is not called through routes it has no price for.
func TestNeverFree(t *testing.T) {
	t.Parallel()
	up := fixedAnswer(t, "application/json", `{"id":"x"}`)
	for _, tt := range []struct {
		method, path, body string
		unit               usage.Unit
		want               int
	}{
		{"POST", "/agents/run", `{}`, usage.Token, 403},
		{"POST", "/files", `x`, usage.Token, 403},
		{"GET", "/files/f", ``, usage.Token, 403},
		{"POST", "/batches", `{}`, usage.Token, 403},
		{"GET", "/agents", ``, usage.OutputToken, 403},
		{"POST", "/audio/speech", `{"model":"demo-chat","input":"x"}`, usage.Token, 403},
		{"POST", "/chat/completions", hello, usage.Image, 403},
		{"POST", "/chat/completions", hello, usage.Token, 200},
		{"GET", "/responses/r1", ``, usage.Token, 200},
		{"POST", "/messages/count_tokens", `{"model":"demo-chat"}`, usage.Token, 200},
		{"POST", "/responses", `{"model":"demo-chat","input":"x","background":true}`, usage.Token, 400},
		{"POST", "/responses", `{"model":"demo-chat","input":"x","background":true}`, usage.Call, 200},
		{"POST", "/agents/run", `{}`, usage.Call, 200},
	} {
		f := startAt(t, up.url, sold([]usage.Unit{tt.unit}))
		before := up.count()
		r := f.do(tt.method, "/v1/infers/"+tokenInfer+"/v1"+tt.path, tt.body, "Authorization", "Bearer "+tokenKey, "Content-Type", "application/json")
		if r.StatusCode != tt.want || (up.count() > before) != (tt.want == 200) {
			t.Errorf("%s %s by %s: %d %s", tt.method, tt.path, tt.unit, r.StatusCode, r.body)
		}
		if e := r.openAI; tt.want == 403 && (e(t).Code != "not_priced" || !strings.Contains(e(t).Message, tt.unit.String()) || r.Header.Get("X-Should-Retry") != "false") {
			t.Errorf("%s %s: %s", tt.method, tt.path, r.body)
		}
	}
}

// parts returns a multipart body of name, value pairs; file is a file.
func parts(t testing.TB, pairs ...string) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i+1 < len(pairs); i += 2 {
		var err error
		var part io.Writer
		if pairs[i] == "file" {
			part, err = w.CreateFormFile("file", "a.wav")
		} else {
			part, err = w.CreateFormField(pairs[i])
		}
		if err == nil {
			_, err = io.WriteString(part, pairs[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

// TestMultipartRouting: the model decides wherever it stands, the body passes
// byte for byte but for a model of another name upstream, and files of any size
// do not stay in memory.
func TestMultipartRouting(t *testing.T) {
	t.Parallel()
	file := strings.Repeat("\x00\r\n--x\r\nmodel\xff", 200_000) // 2.8 MB
	for _, tt := range []struct {
		name  string
		pairs []string
		model string // as the upstream gets it
		want  int
		param string
	}{
		{"before the file", []string{"model", "demo-chat", "file", file, "language", "en"}, "demo-chat", 200, ""},
		{"behind the file", []string{"file", file, "language", "en", "model", "demo-chat"}, "demo-chat", 200, ""},
		{"an alias before", []string{"model", "alias", "file", file}, "demo-chat", 200, ""},
		{"an alias behind", []string{"file", file, "model", "alias", "n", "2"}, "demo-chat", 200, ""},
		{"small", []string{"file", "x", "model", "alias"}, "demo-chat", 200, ""},
		{"unknown", []string{"file", file, "model", "other"}, "", 404, ""},
		{"empty", []string{"file", "x", "model", ""}, "", 400, "model"},
		{"twice", []string{"model", "demo-chat", "model", "demo-chat", "file", "x"}, "", 400, "model"},
		{"twice, far apart", []string{"model", "demo-chat", "file", file, "model", "other"}, "", 400, "model"},
		{"none", []string{"file", "x"}, "", 200, ""},
		{"too long", []string{"model", strings.Repeat("m", 5000), "file", "x"}, "", 400, "model"},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %v", tt.name, chunked), func(t *testing.T) {
				t.Parallel()
				up := fixedAnswer(t, "application/json", `{"text":"x","usage":{"seconds":2}}`)
				f := startAt(t, up.url, func(c *gateway.Config, s *directory.Snapshot) { c.SpoolMemory = 64 << 10 })
				body, kind := parts(t, tt.pairs...)
				req, err := http.NewRequest("POST", f.url+"/v1/audio/transcriptions", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if chunked {
					req.ContentLength = -1
				}
				req.Header.Set("Authorization", "Bearer "+callKey)
				req.Header.Set("Content-Type", kind)
				r := f.send(req)
				if r.StatusCode != tt.want {
					t.Fatalf("%d %s", r.StatusCode, r.body)
				}
				if tt.want != 200 {
					if p := r.openAI(t).Param; tt.param != "" && (p == nil || *p != tt.param) {
						t.Errorf("param %v, want %s", p, tt.param)
					}
					return
				}
				want := body
				if tt.model != "" {
					want = strings.Replace(body, "\r\n\r\nalias\r\n", "\r\n\r\n"+tt.model+"\r\n", 1)
				}
				if got := string(up.last(t)); got != want {
					t.Errorf("the upstream got %d bytes, want %d; equal %v", len(got), len(want), got == want)
				}
				if rec := f.record(0); rec.Units[usage.Call] != 1 || rec.API != "audio.transcriptions" || rec.BytesIn != int64(len(want)) {
					t.Errorf("%+v", rec)
				}
			})
		}
	}
}

// TestUploadLimit: files may be larger than other bodies, up to their own limit.
func TestUploadLimit(t *testing.T) {
	t.Parallel()
	up := fixedAnswer(t, "application/json", `{}`)
	f := startAt(t, up.url, func(c *gateway.Config, _ *directory.Snapshot) { c.MaxBody, c.MaxUpload = 1<<10, 1<<20 })
	form, kind := parts(t, "file", strings.Repeat("x", 64<<10), "model", "demo-chat")
	large, _ := parts(t, "file", strings.Repeat("x", 2<<20), "model", "demo-chat")
	for _, tt := range []struct {
		path, body, kind string
		want             int
	}{
		{"/v1/files", form, kind, 200},
		{"/v1/uploads/u/parts", form, kind, 200},
		{"/v1/audio/transcriptions", form, kind, 200},
		{"/v1/files", large, kind, 413},
		{"/v1/audio/transcriptions", large, kind, 413},
		{"/v1/chat/completions", `{"model":"demo-chat","messages":[{"role":"user","content":"` + strings.Repeat("x", 2<<10) + `"}]}`, "application/json", 413},
		{"/v1/vector_stores", strings.Repeat("x", 16<<10), kind, 413},
	} {
		if r := f.do("POST", tt.path, tt.body, "Authorization", "Bearer "+callKey, "Content-Type", tt.kind); r.StatusCode != tt.want {
			t.Errorf("%s, %d bytes: %d %s", tt.path, len(tt.body), r.StatusCode, r.body)
		}
	}
}

// TestBytesPass: what a client sends and an upstream answers beyond what
// metering needs passes byte for byte.
func TestBytesPass(t *testing.T) {
	t.Parallel()
	requests := map[string]string{
		"tools":      `{"model":"demo-chat", "messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"usage":{"type":"integer"},"model":{}}}}}],"tool_choice":"auto"}`,
		"structured": `{"model":"demo-chat","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"s","strict":true,"schema":{"stream":true}}}}`,
		"logprobs":   `{"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":5,"n":3,"seed":9007199254740993,"model":"demo-chat","logit_bias":{"50256":-100}}`,
		"multimodal": "{\"model\":\"demo-chat\",\n\t\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\u00e9\\u00e9\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,AA==\"}},{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"AA==\",\"format\":\"wav\"}}]}]}",
	}
	reply := `{"id":"c" ,"choices":[{"index":0,"message":{"role":"assistant","content":null,"reasoning_content":"hm \u00e9","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{\"usage\":{\"total_tokens\":9}}"}}]},"logprobs":{"content":[{"token":"\u00e9","bytes":[195,169],"logprob":-1.0e-7}]}}],` + "\n" + `"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"completion_tokens_details":{"reasoning_tokens":2}},"timings":{"predicted_n":4}}`
	up := fixedAnswer(t, "application/json", reply)
	f := startAt(t, up.url, nil)
	i := 0
	for name, body := range requests {
		r := f.do("POST", "/v1/chat/completions", body, "Authorization", "Bearer "+tokenKey, "Content-Type", "application/json")
		if r.StatusCode != 200 || r.body != reply {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.body)
		}
		if got := string(up.last(t)); got != body {
			t.Errorf("%s: the upstream got %s", name, got)
		}
		if rec := f.record(i); rec.Units[usage.Token] != 7 || rec.Reasoning != 2 {
			t.Errorf("%s: %+v", name, rec)
		}
		i++
	}
}

// TestAnthropicErrors: a client of /v1/messages gets its own envelope.
func TestAnthropicErrors(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.left["S-TOKEN"] = 0
	for _, tt := range []struct {
		path, key, body, kind string
		status                int
	}{
		{"/v1/messages", "sk-wrong", `{"model":"demo-chat"}`, "authentication_error", 401},
		{"/v1/messages", tokenKey, `{"model":"demo-chat"}`, "billing_error", 429},
		{"/v1/messages", tokenKey, `{"model":"none"}`, "not_found_error", 404},
		{"/v1/messages/count_tokens", tokenKey, `{`, "invalid_request_error", 400},
	} {
		r := f.do("POST", tt.path, tt.body, "X-Api-Key", tt.key, "Anthropic-Version", "2023-06-01")
		if want := `{"type":"error","error":{"type":"` + tt.kind + `","message":"`; r.StatusCode != tt.status || !strings.HasPrefix(r.body, want) || r.Header.Get("Request-Id") == "" {
			t.Errorf("%s: %d %s", tt.path, r.StatusCode, r.body)
		}
	}
}
