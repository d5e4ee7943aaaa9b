package bench

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"
)

// realtimeLimit is the longest message the mock takes, as its request body is
// bounded by [UpstreamConfig].MaxBody.
const realtimeLimit = 16 << 20

// RealtimeAnswer is one answer of a realtime session, told of when its last
// event is about to be written, or when the session ended in the middle of it.
type RealtimeAnswer struct {
	RequestID string // X-Request-Id of the session's handshake
	Tokens    int64  // that response.done reported; 0 for none
	Done      bool   // it was written to its end
}

var upgrader = websocket.FastHTTPUpgrader{
	Subprotocols: []string{"realtime"},
	CheckOrigin:  func(*fasthttp.RequestCtx) bool { return true },
}

// talk is one realtime session. Its steering comes with the handshake and holds
// for every answer: X-Mock-Chunks, X-Mock-Chunk-Delay, X-Mock-Tokens,
// X-Mock-Usage, and X-Mock-Break, which cuts the connection in the first answer.
type talk struct {
	u     *Upstream
	conn  *websocket.Conn
	steer steer
	model string
	id    string
	in    chan []byte // what the client said; closed when it is gone
	over  chan struct{}
}

// realtime upgrades to a WebSocket and talks as the realtime API does.
func (u *Upstream) realtime(ctx *fasthttp.RequestCtx, a *answer) {
	if a.steer.status/100 != 2 {
		a.fail(ctx, a.steer.status, "")
		return
	}
	t := &talk{
		u: u, steer: a.steer, model: string(ctx.QueryArgs().Peek("model")), id: string(ctx.Request.Header.Peek("X-Request-Id")),
		in: make(chan []byte, 64), over: make(chan struct{}),
	}
	path := append([]byte(nil), ctx.URI().PathOriginal()...)
	err := upgrader.Upgrade(ctx, func(conn *websocket.Conn) {
		defer u.stats.end()
		if !u.track(conn.NetConn()) {
			return
		}
		defer u.untrack(conn.NetConn())
		t.conn = conn
		conn.SetReadLimit(realtimeLimit)
		go t.listen()
		t.run()
		// The server closes conn, and uses what is behind it again, once this
		// returns: nobody may read from it any more then. Its own Close does
		// nothing before, so the reader is ended by its deadline.
		close(t.over)
		_ = conn.SetReadDeadline(time.Now()) // it may be gone
		for range t.in {
		}
	})
	if err != nil {
		return // Upgrade has answered, and a defer of the caller ends the request
	}
	a.running = true
	u.stats.answered(path, fasthttp.StatusSwitchingProtocols)
}

// listen reads the client.
func (t *talk) listen() {
	defer close(t.in)
	for {
		_, b, err := t.conn.ReadMessage()
		if err != nil {
			return
		}
		select {
		case t.in <- b:
		case <-t.over:
			return
		}
	}
}

// errGone says that the session is over.
var errGone = errors.New("bench: the session is over")

// say writes an event.
func (t *talk) say(kind string, members map[string]any) error {
	e := map[string]any{"type": kind, "event_id": "event_" + string(appendID(nil, t.u.ids.Add(1)))}
	for k, v := range members {
		e[k] = v
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // the mock's own values always encode
	}
	if err := t.conn.SetWriteDeadline(time.Now().Add(closeTimeout)); err != nil {
		return err
	}
	return t.conn.WriteMessage(websocket.TextMessage, b)
}

// run answers events until the client leaves.
func (t *talk) run() {
	session := map[string]any{"object": "realtime.session", "type": "realtime", "model": t.model, "id": "sess_" + string(appendID(nil, t.u.ids.Add(1)))}
	if t.say("session.created", map[string]any{"session": session}) != nil {
		return
	}
	for text := range t.in {
		var err error
		e := gjson.ParseBytes(text)
		switch kind := e.Get("type").Str; kind {
		case "session.update":
			err = t.say("session.updated", map[string]any{"session": session})
		case "conversation.item.create":
			item := json.RawMessage(e.Get("item").Raw)
			if !json.Valid(item) {
				item = json.RawMessage("{}")
			}
			err = t.say("conversation.item.added", map[string]any{"previous_item_id": nil, "item": item})
		case "input_audio_buffer.append":
		case "input_audio_buffer.commit":
			err = t.say("input_audio_buffer.committed", map[string]any{"previous_item_id": nil, "item_id": "item_" + string(appendID(nil, t.u.ids.Add(1)))})
		case "response.create":
			err = t.answer()
		default:
			err = t.say("error", map[string]any{"error": map[string]any{"type": "invalid_request_error", "code": "unknown_event", "message": "the mock knows no event " + kind, "param": "type", "event_id": nil}})
		}
		if err != nil {
			return
		}
	}
}

// answer makes one response. A response.cancel on the way ends it early, with
// the tokens of the part that was made.
func (t *talk) answer() (err error) {
	s := &t.steer
	id := "resp_" + string(appendID(nil, t.u.ids.Add(1)))
	response := map[string]any{"object": "realtime.response", "id": id, "status": "in_progress", "output": []any{}, "usage": nil}
	a := RealtimeAnswer{RequestID: t.id}
	defer func() {
		if t.u.cfg.OnRealtime != nil && !a.Done {
			t.u.cfg.OnRealtime(a)
		}
	}()
	if err := t.say("response.created", map[string]any{"response": response}); err != nil {
		return err
	}
	status := "completed"
	made := 0
	for ; made < s.chunks && status == "completed"; made++ {
		if s.breakAfter != breakNever && made >= max(s.breakAfter, 0) {
			t.u.stats.add(func(st *Stats) { st.Broken++ })
			return errGone
		}
		if s.chunkDelay > 0 && made > 0 && !wait(s.chunkDelay, t.u.stop) {
			return errGone
		}
		if err := t.say("response.output_text.delta", map[string]any{
			"response_id": id, "item_id": "item_1", "output_index": 0, "content_index": 0, "delta": plainWord(made),
		}); err != nil {
			return err
		}
		select {
		case text, ok := <-t.in:
			if !ok {
				return errGone
			}
			if gjson.GetBytes(text, "type").Str == "response.cancel" {
				status = "cancelled"
			}
		default:
		}
	}
	u := s.tokens
	if status != "completed" {
		u.completion = u.completion * int64(made) / int64(s.chunks)
	}
	response["status"] = status
	if !s.noUsage {
		a.Tokens = u.total()
		response["usage"] = map[string]any{
			"total_tokens": u.total(), "input_tokens": u.prompt, "output_tokens": u.completion,
			"input_token_details":  map[string]any{"text_tokens": u.prompt, "audio_tokens": 0, "cached_tokens": u.cached},
			"output_token_details": map[string]any{"text_tokens": u.completion, "audio_tokens": 0},
		}
	}
	t.u.stats.usage(u, !s.noUsage)
	a.Done = true
	if t.u.cfg.OnRealtime != nil {
		t.u.cfg.OnRealtime(a)
	}
	return t.say("response.done", map[string]any{"response": response})
}

// plainWord is a piece of text that is not escaped.
func plainWord(i int) string { return []string{"every ", "call ", "is ", "counted ", "once; "}[i%5] }
