package gateway

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"tollgate/gateway/frames"
	"tollgate/gateway/upstream"
	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// closeWait is how long one side of a session may take to answer the other's
// close frame.
const closeWait = 5 * time.Second

// askedWait is how long the upstream may take to begin an answer that the client
// asked for just before it left.
const askedWait = time.Second

// session is a realtime session under way. Two goroutines pass its frames on,
// one for each direction; what is metered, and the call with it, belongs to the
// one that reads the upstream.
type session struct {
	c  *call
	up *upstream.Tunnel

	toClient sync.Mutex // held by who writes to the client
	client   net.Conn
	said     bool // the gateway has sent its close frame; guarded by toClient

	toUpstream sync.Mutex // held by who writes to the upstream, and guards the two below
	left       bool       // the client is gone
	answering  bool       // a response is under way; only the upstream's reader sets it
}

// startSession answers the client's upgrade and passes the session on to
// goroutines of its own.
func (c *call) startSession(up *upstream.Tunnel) refusal {
	h := &c.ctx.Response.Header
	up.Header.CopyTo(h)
	removeHopByHop(h)
	h.Del("Sec-WebSocket-Extensions")
	h.SetBytesV("X-Request-Id", c.idText[:])
	head := appendHead(nil, h, func(name []byte) bool {
		switch string(name) {
		case fasthttp.HeaderContentLength, fasthttp.HeaderContentType, fasthttp.HeaderTransferEncoding, fasthttp.HeaderConnection, fasthttp.HeaderUpgrade:
			return false
		}
		return true
	})
	head = append(head, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"...)
	c.escaped = true
	s := &session{c: c, up: up}
	c.ctx.HijackSetNoResponse(true)
	c.ctx.Hijack(func(conn net.Conn) {
		defer s.end()
		defer func() { c.caught("run a session", recover()) }()
		s.client = conn
		_ = conn.SetDeadline(time.Time{})
		if _, err := conn.Write(head); err != nil {
			return
		}
		s.run()
	})
	c.detach()
	return refusal{}
}

// run passes frames on until the session has ended on both sides.
func (s *session) run() {
	g := s.c.g
	g.sessions.add(s)
	defer g.sessions.remove(s)
	limit := time.AfterFunc(g.cfg.MaxSession, func() {
		s.closeClient(frames.StatusPolicy, "the session has reached its longest duration")
	})
	defer limit.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { s.c.caught("read a session's client", recover()) }()
		s.fromClient()
	}()
	s.fromUpstream()
	s.toUpstream.Lock()
	_ = s.up.Conn().SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = s.up.Conn().Write(frames.AppendMaskedClose(nil, frames.StatusGoingAway, "")) // it may have closed first
	s.toUpstream.Unlock()
	s.up.Close()
	_ = s.client.SetReadDeadline(time.Now().Add(closeWait))
	<-done
}

// end settles what is open when the session is over, and gives the rest back.
func (s *session) end() {
	c := s.c
	s.up.Close()
	if s.answering {
		// It was begun and paid for upstream; what it used did not come.
		c.incomplete = true
		_ = s.settle(c.usage, 1) // it has logged its failure; there is nobody to tell
	} else if c.hold != nil && !c.resolved {
		c.resolved = true
		c.release()
	}
	c.note(fasthttp.StatusSwitchingProtocols)
}

// fromClient passes the client's frames on to the upstream.
func (s *session) fromClient() {
	r := frames.NewReader(s.client, true, s.c.g.cfg.MaxEvent)
	for {
		f, err := r.Next()
		switch {
		case errors.Is(err, frames.ErrTooBig):
			s.closeClient(frames.StatusTooBig, "a message is larger than this gateway takes")
		case errors.Is(err, frames.ErrProtocol):
			s.closeClient(frames.StatusProtocol, "not the WebSocket protocol")
		}
		if err != nil {
			// Gone, or half closed: no more will come from it. The upstream is
			// told, and given time to end an answer that is under way.
			s.toUpstream.Lock()
			s.leave()
			if !s.waitsForAnswer() {
				_ = s.up.Conn().SetWriteDeadline(time.Now().Add(closeWait))
				_, _ = s.up.Conn().Write(frames.AppendMaskedClose(nil, frames.StatusGoingAway, ""))
				_ = s.up.Conn().SetReadDeadline(time.Now().Add(closeWait))
			}
			s.toUpstream.Unlock()
			return
		}
		s.toUpstream.Lock()
		_ = s.up.Conn().SetWriteDeadline(time.Now().Add(s.c.g.cfg.WriteTimeout))
		_, err = s.up.Conn().Write(f.Raw)
		s.toUpstream.Unlock()
		if err != nil {
			return
		}
		if f.Opcode == frames.Close {
			_ = s.up.Conn().SetReadDeadline(time.Now().Add(closeWait))
			return
		}
	}
}

// leave notes that the client is gone: an answer under way is read on, one that
// was asked for may still begin. The caller holds toUpstream.
func (s *session) leave() {
	s.left = true
	wait := askedWait
	if s.answering {
		wait = s.c.g.cfg.DrainTimeout
	}
	_ = s.up.Conn().SetReadDeadline(time.Now().Add(wait)) // one that fails is closed, and read no further
}

// setAnswering notes that an answer has begun or ended.
func (s *session) setAnswering(now bool) {
	s.toUpstream.Lock()
	defer s.toUpstream.Unlock()
	s.answering = now
	if s.left && s.waitsForAnswer() {
		s.leave() // its time begins anew
	}
}

// waitsForAnswer reports whether the product has answers read to their end when
// the client has left.
func (s *session) waitsForAnswer() bool {
	return s.c.product.OnDisconnect != onDisconnectCancel
}

// fromUpstream passes the upstream's frames on to the client. It reads each
// message, and settles the answer that one ends before the client has it.
func (s *session) fromUpstream() {
	c := s.c
	r := frames.NewReader(s.up.Reader(), false, c.g.cfg.MaxEvent)
	var message []byte
	text, gone := false, false
	for {
		f, err := r.Next()
		if err != nil {
			s.closeClient(frames.StatusInternal, "the upstream broke off")
			return
		}
		switch f.Opcode {
		case frames.Text:
			text, message = true, append(message[:0], f.Payload...)
		case frames.Binary:
			text = false
		case frames.Continuation:
			if text {
				message = append(message, f.Payload...)
			}
		}
		stop := refusal{}
		if f.Final && text && f.Opcode < frames.Close {
			stop = s.look(message)
			message = trimBuffer(message)
			if stop.reason == ReasonJournal {
				s.fail(stop) // it is not given away
				return
			}
		}
		if !gone && !s.pass(f.Raw) {
			c.clientGone, gone = true, true
			if !s.waitsForAnswer() {
				return
			}
			s.toUpstream.Lock()
			s.leave()
			s.toUpstream.Unlock()
		}
		if stop.reason != ReasonNone {
			s.fail(stop)
			return
		}
		if f.Opcode == frames.Close {
			return
		}
	}
}

// pass writes a frame to the client; it reports false when that is gone.
func (s *session) pass(raw []byte) bool {
	s.toClient.Lock()
	defer s.toClient.Unlock()
	if s.said {
		return false
	}
	n, err := s.client.Write(raw)
	s.c.bytesOut += int64(n)
	return err == nil
}

// closeClient ends the client's side with a close frame, once.
func (s *session) closeClient(status int, reason string) {
	s.toClient.Lock()
	defer s.toClient.Unlock()
	if s.said {
		return
	}
	s.said = true
	_, _ = s.client.Write(frames.AppendClose(nil, status, reason)) // it may be gone
	_ = s.client.SetReadDeadline(time.Now().Add(closeWait))
}

// fail tells the client, in an error event of the realtime API and in the close
// frame, why the session ends here.
func (s *session) fail(ref refusal) {
	c := s.c
	w := &table[ref.reason]
	event := append([]byte(`{"type":"error","event_id":"event_`), c.idText[:]...)
	event = append(event, `","error":`...)
	event = append(event, errorObject(w)...)
	s.pass(frames.Append(nil, frames.Text, append(event, '}')))
	code := frames.StatusPolicy
	if w.llmStatus >= 500 {
		code = frames.StatusInternal
	}
	s.closeClient(code, w.llmCode)
	c.g.metrics.rejected[ref.reason].Inc()
}

// look looks into one event of the upstream. It returns why the session has to
// end behind it.
func (s *session) look(event []byte) refusal {
	c := s.c
	kind, rep := realtimeUsage(event)
	switch kind {
	case "response.created":
		s.setAnswering(true)
		c.text, c.usage = nil, report{}
	case "response.done":
		c.measureEvent(event)
		return s.next(rep, 1)
	case "conversation.item.input_audio_transcription.completed":
		if rep.found && metersTokens(c.sub.Units) {
			return s.next(rep, 0)
		}
	default:
		if s.answering {
			c.countEvent(event)
		}
	}
	return refusal{}
}

// next settles an answer and holds what the next one may cost.
func (s *session) next(rep report, calls int64) refusal {
	c := s.c
	if err := s.settle(rep, calls); err != nil {
		return refusal{reason: ReasonJournal}
	}
	if calls > 0 {
		s.setAnswering(false)
	}
	if c.g.draining.Load() {
		return refusal{reason: ReasonDraining}
	}
	if ref := c.refresh(); ref.reason != ReasonNone {
		return ref
	}
	if c.sub.State == directory.SubscriptionFrozen {
		return refusal{reason: ReasonFrozen}
	}
	now := c.g.now()
	hold, err := c.g.admitter.Admit(c.sub.ID, c.sub.Units, c.estimate(), now)
	switch {
	case err == nil:
	case errors.Is(err, ErrExhausted):
		return refusal{reason: ReasonExhausted}
	case errors.Is(err, ErrHeld):
		return refusal{reason: ReasonHeld}
	default:
		return refusal{reason: ReasonQuotaUnavailable}
	}
	// The next answer is a call of its own.
	c.hold, c.resolved = hold, false
	c.start, c.id = now, ids.NewRequest(now)
	c.id.Append(c.idText[:0])
	c.rec = usage.Record{}
	c.sent, c.firstByte, c.bytesOut, c.text = now, time.Time{}, 0, nil
	c.beginTally()
	return refusal{}
}

// settle charges an answer on the hold that is open.
func (s *session) settle(rep report, calls int64) error {
	if s.c.resolved {
		return nil
	}
	s.c.resolved = true
	return s.c.settleAnswer(rep, calls)
}

// sessions are the realtime sessions under way.
type sessions struct {
	mu  sync.Mutex
	set map[*session]struct{}
}

func (o *sessions) add(s *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.set == nil {
		o.set = make(map[*session]struct{})
	}
	o.set[s] = struct{}{}
}

func (o *sessions) remove(s *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.set, s)
}

// leave ends them all: the gateway is shutting down. An answer under way is
// read to its end and charged.
func (o *sessions) leave() {
	o.mu.Lock()
	all := make([]*session, 0, len(o.set))
	for s := range o.set {
		all = append(all, s)
	}
	o.mu.Unlock()
	for _, s := range all {
		s.closeClient(frames.StatusGoingAway, "the gateway is shutting down")
	}
}
