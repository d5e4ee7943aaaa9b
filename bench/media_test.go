package bench

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestMedia: the endpoints beside completions answer in their own form and heed
// the steering.
func TestMedia(t *testing.T) {
	t.Parallel()
	u := NewUpstream(UpstreamConfig{})
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	for _, tt := range []struct {
		path, body, header string
		status             int
		want, kind         string
	}{
		{"/v1/images/generations", `{"n":2}`, "", 200, `"},{"b64_json":"`, "application/json"},
		{"/v1/audio/speech", `{"input":"x"}`, "", 200, "\xff\xfb", "audio/mpeg"},
		{"/v1/audio/transcriptions", `{}`, "", 200, `"duration":3.25`, "application/json"},
		{"/v1/audio/translations", `{"response_format":"text"}`, "", 200, "counted", "text/plain"},
		{"/v1/moderations", `{}`, "", 200, `"flagged":false`, "application/json"},
		{"/v1/rerank", `{"documents":["a","b"]}`, "", 200, `"total_tokens":12`, "application/json"},
		{"/v1/messages", `{"model":"m"}`, "", 200, `"input_tokens":12`, "application/json"},
		{"/v1/messages", `{"model":"m","stream":true}`, "", 200, "event: message_stop\n", "text/event-stream; charset=utf-8"},
		{"/v1/messages/count_tokens", `{"model":"m"}`, "", 200, `{"input_tokens":12}`, "application/json"},
		{"/v1/messages", `{"model":"m"}`, "503", 503, "server_error", "application/json"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", url+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.header != "" {
			req.Header.Set("X-Mock-Status", tt.header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(b), tt.want) || resp.Header.Get("Content-Type") != tt.kind {
			t.Errorf("%s: %d %s %.200s %v", tt.path, resp.StatusCode, resp.Header.Get("Content-Type"), b, err)
		}
	}
}
