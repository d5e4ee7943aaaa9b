package bench

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/tidwall/gjson"
)

// dialMock opens a realtime session with a mock of its own.
func dialMock(t *testing.T, cfg UpstreamConfig, headers ...string) (*websocket.Conn, *Upstream) {
	t.Helper()
	u := NewUpstream(cfg)
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	c, _, err := websocket.DefaultDialer.Dial(strings.Replace(url, "http", "ws", 1)+"/v1/realtime?model=m", h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	return c, u
}

// spoken reads events up to one of a type, or to the end of the session, and
// returns their types and the last one.
func spoken(c *websocket.Conn, last string) (kinds []string, event gjson.Result) {
	for {
		_, b, err := c.ReadMessage()
		if err != nil {
			return append(kinds, "end"), event
		}
		event = gjson.ParseBytes(b)
		if kinds = append(kinds, event.Get("type").Str); event.Get("type").Str == last {
			return kinds, event
		}
	}
}

// TestRealtime: a session answers as the realtime API does, heeds the steering
// of its handshake, and tells its witness what each answer reported.
func TestRealtime(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []RealtimeAnswer
	cfg := UpstreamConfig{OnRealtime: func(a RealtimeAnswer) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, a)
	}}
	c, u := dialMock(t, cfg, "X-Mock-Tokens", "5,8,2", "X-Mock-Chunks", "4", "X-Request-Id", "r1")
	for _, tt := range []struct{ say, last, want string }{
		{"", "session.created", "session.created"},
		{`{"type":"session.update"}`, "session.updated", "session.updated"},
		{`{"type":"conversation.item.create","item":{"id":"i"}}`, "conversation.item.added", "conversation.item.added"},
		{`{"type":"response.create"}`, "response.done", "response.created" + strings.Repeat(" response.output_text.delta", 4) + " response.done"},
		{`{"type":"nonsense"}`, "error", "error"},
	} {
		if tt.say != "" {
			if err := c.WriteMessage(websocket.TextMessage, []byte(tt.say)); err != nil {
				t.Fatal(err)
			}
		}
		kinds, event := spoken(c, tt.last)
		if got := strings.Join(kinds, " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.say, got, tt.want)
		}
		if tt.last == "response.done" && (event.Get("response.usage.total_tokens").Int() != 13 || event.Get("response.usage.input_token_details.cached_tokens").Int() != 2) {
			t.Errorf("%s", event.Raw)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 1 || told[0] != (RealtimeAnswer{RequestID: "r1", Tokens: 13, Done: true}) || u.Stats().Usage.TotalTokens != 13 {
		t.Errorf("%+v %+v", told, u.Stats())
	}
}

// TestRealtimeBreaksOff: an answer that is cut, or whose client leaves, is told
// of as not done.
func TestRealtimeBreaksOff(t *testing.T) {
	t.Parallel()
	for name, header := range map[string][]string{"cut": {"X-Mock-Break", "2"}, "left": {"X-Mock-Chunks", "1000", "X-Mock-Chunk-Delay", "5ms"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := make(chan RealtimeAnswer, 1)
			c, _ := dialMock(t, UpstreamConfig{OnRealtime: func(a RealtimeAnswer) { told <- a }}, header...)
			if err := c.WriteMessage(websocket.TextMessage, []byte(`{"type":"response.create"}`)); err != nil {
				t.Fatal(err)
			}
			if name == "cut" {
				if kinds, _ := spoken(c, "response.done"); strings.Join(kinds, " ") != "session.created response.created response.output_text.delta response.output_text.delta end" {
					t.Error(kinds)
				}
			} else {
				spoken(c, "response.output_text.delta")
				_ = c.Close()
			}
			select {
			case a := <-told:
				if a.Done || a.Tokens != 0 {
					t.Errorf("%+v", a)
				}
			case <-time.After(20 * time.Second):
				t.Error("nothing was told")
			}
		})
	}
}
