package bench

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// startUpstream runs a mock upstream for one test.
func startUpstream(t testing.TB) (*Upstream, string) {
	t.Helper()
	u := NewUpstream(UpstreamConfig{})
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u, url
}

// call sends one request with steering headers ("Status: 503").
func call(t testing.TB, method, url, body string, steer ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steer {
		name, value, _ := strings.Cut(s, ": ")
		req.Header.Add("X-Mock-"+name, value)
	}
	resp, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

const chatBody = `{"model":"demo-chat","messages":[{"role":"user","content":"hi"}]}`

// events takes an SSE transcript apart.
func events(t testing.TB, b []byte) (data []string) {
	t.Helper()
	sc := bufio.NewScanner(strings.NewReader(string(b)))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if d, ok := strings.CutPrefix(sc.Text(), "data:"); ok {
			d = strings.TrimPrefix(d, " ")
			if d != "[DONE]" && !json.Valid([]byte(d)) {
				t.Errorf("event is not valid JSON: %s", d)
			}
			data = append(data, d)
		}
	}
	return data
}

func TestSmoke(t *testing.T) {
	u, url := startUpstream(t)
	resp, b, err := call(t, "POST", url+"/v1/chat/completions", chatBody, "Tokens: 12,34")
	if err != nil || resp.StatusCode != 200 || !json.Valid(b) {
		t.Fatalf("%v %v %s", resp, err, b)
	}
	for _, extra := range []string{"", "Split: 7", "Encoding: gzip", "Trailer: X-A=b", "1xx: 103"} {
		var steer []string
		if extra != "" {
			steer = append(steer, extra)
		}
		resp, b, err = call(t, "POST", url+"/v1/chat/completions", strings.TrimSuffix(chatBody, "}")+`,"stream":true,"stream_options":{"include_usage":true}}`, steer...)
		if err != nil {
			t.Fatalf("%s: %v", extra, err)
		}
		if extra != "Encoding: gzip" {
			ev := events(t, b)
			if len(ev) != 1+10+1+1+1 {
				t.Errorf("%s: %d events: %s", extra, len(ev), b)
			}
		}
	}
	if s := u.Stats(); s.Total2xx != 6 || s.Finished != 5 {
		t.Errorf("%+v", s)
	}
}
