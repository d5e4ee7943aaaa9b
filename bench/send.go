package bench

import (
	"bytes"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// answer is one answer on its way out: through fasthttp where that can say it,
// by the raw writer where it cannot.
type answer struct {
	u        *Upstream
	steer    steer
	id       string // X-Request-Id, where somebody wants to know
	llm      bool   // counts towards the usage sums
	reported bool   // the body holds a usage figure
	running  bool   // it goes on after the handler returned
}

// fail answers with an OpenAI error. Steering still applies to how it is sent.
func (a *answer) fail(ctx *fasthttp.RequestCtx, status int, message string) {
	a.steer.status = status
	a.send(ctx, "application/json", errorBody(nil, status, message))
}

// send answers with a body that is not an event stream.
func (a *answer) send(ctx *fasthttp.RequestCtx, contentType string, body []byte) {
	if a.dropped(ctx) {
		return
	}
	s := &a.steer
	if s.encoding != "" {
		body = compressAll(s.encoding, body)
	}
	bodiless := s.status == fasthttp.StatusNoContent || s.status == fasthttp.StatusNotModified
	if bodiless {
		body, contentType = nil, ""
	}
	a.count(ctx)
	if a.llm && s.status/100 == 2 {
		a.usage(a.reported && s.breakAfter == breakNever && !bodiless)
	}
	if s.raw() {
		a.hijack(ctx, func(w *rawWriter) {
			w.head(contentType, bodiless, len(body))
			w.body(body)
		})
		return
	}
	a.head(ctx, contentType)
	if bodiless {
		return
	}
	if s.chunked {
		ctx.Response.SetBodyStream(bytes.NewReader(body), -1)
		return
	}
	ctx.Response.SetBodyRaw(body)
}

// stream answers with an event stream.
func (a *answer) stream(ctx *fasthttp.RequestCtx, e *eventStream) {
	if a.dropped(ctx) {
		return
	}
	s := &a.steer
	if s.encoding != "" {
		e.compact = newCompressor(s.encoding)
	}
	a.count(ctx)
	u := a.u
	u.stats.add(func(st *Stats) { st.Streams++ })
	e.done = func(e *eventStream, finished bool) {
		a.usage(e.reported)
		if finished {
			u.stats.add(func(st *Stats) { st.Finished++ })
		}
	}
	const contentType = "text/event-stream; charset=utf-8"
	if s.raw() {
		a.hijack(ctx, func(w *rawWriter) {
			w.head(contentType, false, -1)
			w.events(e)
		})
		return
	}
	a.head(ctx, contentType)
	ctx.Response.Header.Set("Cache-Control", "no-cache")
	a.running = true
	inner := e.done
	e.done = func(e *eventStream, finished bool) { inner(e, finished); u.stats.end() }
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(e, -1)
}

// count counts the answer and tells of it; its head follows.
func (a *answer) count(ctx *fasthttp.RequestCtx) {
	path := ctx.URI().PathOriginal()
	a.u.stats.answered(path, a.steer.status)
	cfg := &a.u.cfg
	if cfg.OnUsage != nil {
		a.id = string(ctx.Request.Header.Peek("X-Request-Id"))
	}
	if cfg.OnAnswer != nil {
		cfg.OnAnswer(Answer{RequestID: string(ctx.Request.Header.Peek("X-Request-Id")), Path: string(path), Status: a.steer.status})
	}
}

// usage counts what a 2xx answer of an LLM endpoint reported of its tokens.
func (a *answer) usage(reported bool) {
	a.u.stats.usage(a.steer.tokens, reported)
	if a.u.cfg.OnUsage == nil {
		return
	}
	tokens := int64(0)
	if reported {
		tokens = a.steer.tokens.total()
	}
	a.u.cfg.OnUsage(a.id, tokens)
}

// head sets what fasthttp writes before the body.
func (a *answer) head(ctx *fasthttp.RequestCtx, contentType string) {
	s := &a.steer
	ctx.SetStatusCode(s.status)
	if contentType != "" {
		ctx.SetContentType(contentType)
	}
	if s.encoding != "" {
		ctx.Response.Header.Set(fasthttp.HeaderContentEncoding, s.encoding)
	}
	for _, h := range s.headers {
		ctx.Response.Header.Add(h.name, h.value)
	}
}

// dropped cuts the connection before any answer, where that was asked for.
func (a *answer) dropped(ctx *fasthttp.RequestCtx) bool {
	if a.steer.breakAfter != breakStart {
		return false
	}
	a.u.stats.add(func(s *Stats) { s.Dropped++ })
	a.hijack(ctx, func(w *rawWriter) { w.cut() })
	return true
}

// hijack takes the connection from fasthttp and gives it to write.
func (a *answer) hijack(ctx *fasthttp.RequestCtx, write func(w *rawWriter)) {
	a.running = true
	w := &rawWriter{conn: ctx.Conn(), steer: a.steer, u: a.u, isHead: ctx.IsHead()}
	tracked := a.u.track(w.conn)
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(net.Conn) {
		if tracked {
			defer w.u.untrack(w.conn)
		}
		defer w.u.stats.end()
		if tracked {
			write(w)
		}
	})
}

// track remembers a hijacked connection, so that Close can cut it and wait for
// its writer. It reports false when the server is closing already.
func (u *Upstream) track(c net.Conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.conns[c] = struct{}{}
	u.served.Add(1)
	return true
}

func (u *Upstream) untrack(c net.Conn) {
	u.mu.Lock()
	delete(u.conns, c)
	u.mu.Unlock()
	u.served.Done()
}

// rawWriter writes an answer byte for byte. The connection is closed after it.
type rawWriter struct {
	conn    net.Conn
	steer   steer
	u       *Upstream
	isHead  bool
	chunked bool
	silent  bool // no body may follow
	broken  bool // cut off, or the client is gone
	buf     []byte
}

// write sends b at once. After the first failure nothing is sent any more.
func (w *rawWriter) write(b []byte) {
	if w.broken || len(b) == 0 {
		return
	}
	if _, err := w.conn.Write(b); err != nil {
		w.broken = true
	}
}

// cut ends the connection: by FIN, or by RST where that was asked for.
func (w *rawWriter) cut() {
	w.broken = true
	if tcp, ok := w.conn.(*net.TCPConn); ok && w.steer.breakReset {
		_ = tcp.SetLinger(0) // a socket that has gone is cut already
	}
	_ = w.conn.Close() // fasthttp closes it once more
}

func (w *rawWriter) cutCounted() {
	w.u.stats.add(func(s *Stats) { s.Broken++ })
	w.cut()
}

// head writes the interim answers and the head. A length of -1 means chunked.
func (w *rawWriter) head(contentType string, bodiless bool, length int) {
	s := &w.steer
	for _, code := range s.interim {
		b := "HTTP/1.1 " + strconv.Itoa(code) + " " + http.StatusText(code) + "\r\n"
		if code == http.StatusEarlyHints {
			b += "Link: </style.css>; rel=preload; as=style\r\n"
		}
		w.write([]byte(b + "\r\n"))
		w.u.stats.add(func(st *Stats) { st.Interims++ })
	}
	w.silent = w.isHead || bodiless
	w.chunked = length < 0 || s.chunked || len(s.trailers) > 0
	b := []byte("HTTP/1.1 " + strconv.Itoa(s.status) + " " + fasthttp.StatusMessage(s.status) + "\r\n")
	field := func(name, value string) { b = append(b, name+": "+value+"\r\n"...) }
	field("Server", "tollgate-mock")
	field("Date", time.Now().UTC().Format(http.TimeFormat))
	if contentType != "" {
		field("Content-Type", contentType)
	}
	if s.encoding != "" {
		field("Content-Encoding", s.encoding)
	}
	for _, h := range s.headers {
		field(h.name, h.value)
	}
	for _, t := range s.trailers {
		field("Trailer", t.name)
	}
	switch {
	case bodiless:
	case w.chunked:
		field("Transfer-Encoding", "chunked")
	default:
		field("Content-Length", strconv.Itoa(length))
	}
	field("Connection", "close")
	w.write(append(b, "\r\n"...))
}

// body writes a body that is not a stream, cut off after so many bytes where
// that was asked for.
func (w *rawWriter) body(body []byte) {
	n := w.steer.breakAfter
	if w.silent {
		if n != breakNever {
			w.cutCounted()
		}
		return
	}
	if n != breakNever {
		n = min(n, max(len(body)-1, 0)) // never the whole body: it would not be cut off
		if w.chunked {
			w.write(strconv.AppendInt(nil, int64(len(body)), 16))
			w.write([]byte("\r\n"))
		}
		w.pieces(body[:n], false)
		w.cutCounted()
		return
	}
	w.pieces(body, w.chunked)
	w.end()
}

// events writes an event stream, cut off in the middle of the event after the
// last allowed one where that was asked for.
func (w *rawWriter) events(e *eventStream) {
	// Counted before the end is written: who has read a stream to its end must
	// find it counted.
	counted := false
	done := func(finished bool) {
		if !counted {
			counted = true
			e.done(e, finished)
		}
	}
	defer done(false)
	if w.silent {
		done(w.steer.breakAfter == breakNever)
		return
	}
	for n := 0; !w.broken; n++ {
		event, more := e.piecewise()
		if e.stopped {
			w.cut()
			return
		}
		if w.steer.breakAfter != breakNever && (n == w.steer.breakAfter || !more) {
			half := event[:len(event)/2]
			w.write(append(strconv.AppendInt(nil, int64(max(len(event), 1)), 16), "\r\n"...))
			w.pieces(half, false)
			done(false)
			w.cutCounted()
			return
		}
		if !more {
			done(true)
			w.end()
			return
		}
		w.pieces(event, true)
	}
}

// pieces writes b in one go, or in pieces of the asked size: each by a write of
// its own and, in a chunked body, as a chunk of its own.
func (w *rawWriter) pieces(b []byte, chunked bool) {
	size := w.steer.split
	if size == 0 {
		size = max(len(b), 1)
	}
	for len(b) > 0 && !w.broken {
		p := b[:min(size, len(b))]
		b = b[len(p):]
		if !chunked {
			w.write(p)
			continue
		}
		w.buf = strconv.AppendInt(w.buf[:0], int64(len(p)), 16)
		w.buf = append(w.buf, "\r\n"...)
		w.buf = append(w.buf, p...)
		w.buf = append(w.buf, "\r\n"...)
		w.write(w.buf)
	}
}

// end closes a chunked body with its trailers.
func (w *rawWriter) end() {
	if !w.chunked {
		return
	}
	b := []byte("0\r\n")
	for _, t := range w.steer.trailers {
		b = append(b, t.name+": "+t.value+"\r\n"...)
	}
	w.write(append(b, "\r\n"...))
}
