package gateway_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ws "github.com/fasthttp/websocket"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// realtimeUpstream is a realtime server: it echoes events, answers
// response.create with two events and the usage, and hands out what it saw of
// the handshake.
func realtimeUpstream(t testing.TB) (url string, heads chan *http.Request, gone chan error) {
	heads, gone = make(chan *http.Request, 16), make(chan error, 16)
	up := ws.Upgrader{Subprotocols: []string{"realtime"}, EnableCompression: true, CheckOrigin: func(*http.Request) bool { return true }}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Mock-Status") != "" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(429)
			_, _ = w.Write([]byte(`{"error":{"message":"too many sessions"}}`))
			return
		}
		heads <- r
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil {
				gone <- err
				return
			}
			var e struct {
				Type string `json:"type"`
			}
			_ = json.Unmarshal(b, &e)
			switch {
			case kind == ws.TextMessage && e.Type == "response.create":
				for _, m := range []string{
					`{"type":"response.created","response":{"usage":null}}`,
					`{"type":"response.output_text.delta","delta":"hi"}`,
					`{"type":"response.done","response":{"status":"completed","usage":{"total_tokens":46,"input_tokens":12,"output_tokens":34,"input_token_details":{"cached_tokens":5},"output_token_details":{"text_tokens":34}}}}`,
				} {
					_ = c.WriteMessage(ws.TextMessage, []byte(m))
				}
			case kind == ws.TextMessage && e.Type == "response.hang":
				_ = c.WriteMessage(ws.TextMessage, []byte(`{"type":"response.created"}`))
			case kind == ws.TextMessage && e.Type == "bye":
				_ = c.WriteControl(ws.CloseMessage, ws.FormatCloseMessage(4001, "later"), time.Now().Add(time.Second))
			default:
				_ = c.WriteMessage(kind, b)
			}
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, heads, gone
}

// session opens a realtime session.
func (f *fixture) session(t testing.TB, query string, header http.Header, protocols ...string) (*ws.Conn, *http.Response, error) {
	t.Helper()
	d := ws.Dialer{Subprotocols: protocols, EnableCompression: true, HandshakeTimeout: patience}
	c, resp, err := d.Dial(strings.Replace(f.url, "http", "ws", 1)+"/v1/realtime"+query, header)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(patience))
	}
	return c, resp, err
}

func bearerHeader(key string) http.Header { return http.Header{"Authorization": {"Bearer " + key}} }

func say(t testing.TB, c *ws.Conn, text string) {
	t.Helper()
	if err := c.WriteMessage(ws.TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// until reads messages up to one that holds text and returns them all.
func until(t testing.TB, c *ws.Conn, text string) (all []string) {
	t.Helper()
	for {
		_, b, err := c.ReadMessage()
		if err != nil {
			t.Fatalf("%v after %q", err, all)
		}
		if all = append(all, string(b)); strings.Contains(string(b), text) {
			return all
		}
	}
}

// TestRealtime: frames pass both ways as they are, and each response is one
// counted call, charged before its last event arrives.
func TestRealtime(t *testing.T) {
	t.Parallel()
	url, heads, gone := realtimeUpstream(t)
	f := startAt(t, url, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[1].Upstreams[0].Headers = []directory.KV{{Name: "Authorization", Value: "Bearer upstream-secret"}}
	})
	c, resp, err := f.session(t, "?model=alias&x=1", nil, "realtime", "openai-insecure-api-key."+tokenKey, "openai-beta.realtime-v1")
	if err != nil {
		t.Fatal(err, resp)
	}
	head := <-heads
	if resp.Header.Get("Sec-Websocket-Protocol") != "realtime" || resp.Header.Get("Sec-Websocket-Extensions") != "" || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("%v", resp.Header)
	}
	if p := strings.Join(head.Header.Values("Sec-Websocket-Protocol"), ", "); p != "realtime, openai-beta.realtime-v1" || head.Header.Get("Authorization") != "Bearer upstream-secret" ||
		head.URL.Path != "/v1/realtime" || head.URL.Query().Get("model") != "demo-chat" || head.URL.Query().Get("x") != "1" || head.Header.Get("Sec-Websocket-Extensions") != "" {
		t.Errorf("%s %v", head.URL, head.Header)
	}
	big := `{"type":"input","audio":"` + strings.Repeat("A", 300_000) + `"}`
	for _, text := range []string{`{"type":"session.update"}`, big} {
		say(t, c, text)
		if got := until(t, c, ""); got[0] != text {
			t.Errorf("%.50q came back", got)
		}
	}
	if err := c.WriteMessage(ws.BinaryMessage, []byte{0, 1, 255}); err != nil {
		t.Fatal(err)
	}
	if kind, b, err := c.ReadMessage(); err != nil || kind != ws.BinaryMessage || string(b) != "\x00\x01\xff" {
		t.Errorf("%d %q %v", kind, b, err)
	}
	pong := make(chan string, 1)
	c.SetPongHandler(func(s string) error { pong <- s; return nil })
	_ = c.WriteControl(ws.PingMessage, []byte("p"), time.Now().Add(patience))
	for i := range 2 {
		say(t, c, `{"type":"response.create"}`)
		until(t, c, "response.done")
		f.mu.Lock()
		n := len(f.records)
		f.mu.Unlock()
		if n != i+1 {
			t.Errorf("%d records when response %d had arrived", n, i+1)
		}
	}
	if p := await(t, pong, "the pong"); p != "p" {
		t.Errorf("pong %q", p)
	}
	a, b := f.record(0), f.record(1)
	for _, rec := range []usage.Record{a, b} {
		if rec.Units[usage.Token] != 46 || rec.Charged(usage.Token) != 46 || rec.Cached != 5 || rec.API != "realtime" || rec.Model != "alias" || rec.Basis != usage.BasisUpstream || rec.Status != 200 || !rec.Has(usage.Counted|usage.Streamed) {
			t.Errorf("%+v", rec)
		}
	}
	if a.ID == b.ID {
		t.Error("two responses have one id")
	}
	// The upstream closes with a code of its own, which arrives.
	say(t, c, `{"type":"bye"}`)
	var closed *ws.CloseError
	if _, _, err := c.ReadMessage(); !errors.As(err, &closed) || closed.Code != 4001 || closed.Text != "later" {
		t.Errorf("%v", err)
	}
	await(t, gone, "the upstream's end")
	f.idle()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.records) != 2 {
		t.Errorf("%d records", len(f.records))
	}
}

// TestRealtimeDry: a package that is used up ends the session behind the answer
// that used it up, with an error event and close code 1008.
func TestRealtimeDry(t *testing.T) {
	t.Parallel()
	url, _, gone := realtimeUpstream(t)
	f := startAt(t, url, nil)
	f.left["S-TOKEN"] = 40
	c, _, err := f.session(t, "?model=demo-chat", bearerHeader(tokenKey))
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, `{"type":"response.create"}`)
	all := until(t, c, `"type":"error"`)
	if last := all[len(all)-1]; !strings.Contains(all[len(all)-2], "response.done") || !strings.Contains(last, `"code":"insufficient_quota"`) || !json.Valid([]byte(last)) {
		t.Errorf("%q", all)
	}
	var closed *ws.CloseError
	if _, _, err := c.ReadMessage(); !errors.As(err, &closed) || closed.Code != ws.ClosePolicyViolation || closed.Text != "insufficient_quota" {
		t.Errorf("%v", err)
	}
	await(t, gone, "the upstream's end")
	f.idle()
	if rec := f.record(0); rec.Units[usage.Token] != 46 {
		t.Errorf("%+v", rec)
	}
	if _, resp, err := f.session(t, "?model=demo-chat", bearerHeader(tokenKey)); err == nil || resp.StatusCode != 429 {
		t.Errorf("%v %v", resp, err)
	}
}

// TestRealtimeEnds: however a session ends, what it began is charged once and
// the rest given back.
func TestRealtimeEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		end     func(t *testing.T, f *fixture, c *ws.Conn)
		records int
		flags   usage.Flags
	}{
		{"the client closes", func(t *testing.T, _ *fixture, c *ws.Conn) {
			_ = c.WriteControl(ws.CloseMessage, ws.FormatCloseMessage(1000, ""), time.Now().Add(patience))
			var closed *ws.CloseError
			if _, _, err := c.ReadMessage(); !errors.As(err, &closed) || closed.Code != 1000 {
				t.Errorf("%v", err)
			}
		}, 0, 0},
		{"the client vanishes", func(_ *testing.T, _ *fixture, c *ws.Conn) { _ = c.Close() }, 0, 0},
		{"the client vanishes within an answer", func(t *testing.T, _ *fixture, c *ws.Conn) {
			say(t, c, `{"type":"response.hang"}`)
			until(t, c, "response.created")
			_ = c.Close()
		}, 1, usage.Incomplete},
		{"a message is too large", func(t *testing.T, _ *fixture, c *ws.Conn) {
			_ = c.WriteMessage(ws.TextMessage, []byte(strings.Repeat("x", 2<<20)))
			var closed *ws.CloseError
			if _, _, err := c.ReadMessage(); !errors.As(err, &closed) || closed.Code != ws.CloseMessageTooBig {
				t.Errorf("%v", err)
			}
		}, 0, 0},
		{"the key is revoked", func(t *testing.T, f *fixture, c *ws.Conn) {
			s := snapshot("http://127.0.0.1:1")
			s.Version, s.APIKeys = 2, nil
			if err := f.gateway.Swap(s); err != nil {
				t.Fatal(err)
			}
			say(t, c, `{"type":"response.create"}`)
			until(t, c, "invalid_api_key")
			var closed *ws.CloseError
			if _, _, err := c.ReadMessage(); !errors.As(err, &closed) || closed.Code != ws.ClosePolicyViolation {
				t.Errorf("%v", err)
			}
		}, 1, 0},
		{"the time is over", func(t *testing.T, _ *fixture, c *ws.Conn) {
			var closed *ws.CloseError
			if _, _, err := c.ReadMessage(); !errors.As(err, &closed) || closed.Code != ws.ClosePolicyViolation {
				t.Errorf("%v", err)
			}
		}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url, _, _ := realtimeUpstream(t)
			f := startAt(t, url, func(c *gateway.Config, _ *directory.Snapshot) {
				c.DrainTimeout, c.MaxEvent = 100*time.Millisecond, 1<<20
				if tt.name == "the time is over" {
					c.MaxSession = 50 * time.Millisecond
				}
			})
			c, _, err := f.session(t, "?model=demo-chat", bearerHeader(callKey))
			if err != nil {
				t.Fatal(err)
			}
			tt.end(t, f, c)
			f.idle()
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.records) != tt.records {
				t.Fatalf("%d records, want %d", len(f.records), tt.records)
			}
			if tt.records > 0 && (f.records[0].Units[usage.Call] != 1 || f.records[0].Flags&usage.Incomplete != tt.flags) {
				t.Errorf("%+v", f.records[0])
			}
		})
	}
}

// TestRealtimeRefused: what is no session is told so.
func TestRealtimeRefused(t *testing.T) {
	t.Parallel()
	url, _, _ := realtimeUpstream(t)
	f := startAt(t, url, nil)
	auth := []string{"Authorization", "Bearer " + callKey}
	for _, tt := range []struct {
		method, path string
		want         int
	}{{"GET", "/v1/realtime?model=demo-chat", 400}, {"POST", "/v1/realtime/client_secrets", 404}, {"POST", "/v1/Realtime/sessions/", 404}} {
		if r := f.do(tt.method, tt.path, "", auth...); r.StatusCode != tt.want {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, r.StatusCode, r.body)
		}
	}
	for query, want := range map[string]int{"?model=none": 404, "?model=demo-chat&model=alias": 400, "?model=demo-chat&call_id=1": 400} {
		if _, resp, err := f.session(t, query, bearerHeader(callKey)); err == nil || resp == nil || resp.StatusCode != want {
			t.Errorf("%s: %v %v", query, resp, err)
		}
	}
	if _, resp, err := f.session(t, "?model=demo-chat", bearerHeader("sk-wrong")); err == nil || resp.StatusCode != 401 {
		t.Errorf("%v %v", resp, err)
	}
	h := bearerHeader(callKey)
	h.Set("X-Mock-Status", "429")
	if _, resp, err := f.session(t, "?model=demo-chat", h); err == nil || resp.StatusCode != 429 {
		t.Errorf("%v %v", resp, err)
	}
	f.idle()
}

// TestRealtimeLeft: when its client is gone and no answer is under way, a
// session does not linger at the upstream, nor its hold, for the time an answer
// may be read on.
func TestRealtimeLeft(t *testing.T) {
	t.Parallel()
	url, _, gone := realtimeUpstream(t)
	f := startAt(t, url, func(c *gateway.Config, _ *directory.Snapshot) { c.DrainTimeout = time.Hour })
	c, _, err := f.session(t, "?model=alias", bearerHeader(tokenKey))
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, `{"type":"response.create"}`)
	until(t, c, "response.done")
	_ = c.NetConn().Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the session lingers at the upstream")
	}
}
