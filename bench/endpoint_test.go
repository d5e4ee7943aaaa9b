package bench

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
