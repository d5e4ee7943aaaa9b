package accuracy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/tidwall/gjson"

	"tollgate/bench"
	"tollgate/internal/usage"
)

// sessionLimit is how long one session of the trial may take.
const sessionLimit = 15 * time.Second

// How the client of a session leaves.
const (
	leaveClose  = iota // by a close frame, when its last answer is done
	leaveEnd           // by FIN in the middle of an answer
	leaveReset         // by RST in the middle of an answer
	leaveAtOnce        // by FIN right behind its last question
	leaveFrame         // by a close frame in the middle of an answer
	leaveKinds
)

// answered is what the mock wrote in realtime sessions.
type answered struct{ done, tokens, cut atomic.Int64 }

// sockets closes realtime sessions at random moments, from both ends. Every
// answer the upstream ended is charged by what it reported, whether its client
// was there to see it or not; one that broke off is a call whose tokens nobody
// knows, and costs none.
func sockets(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: plenty, tokens: true})
	if err != nil {
		return err
	}
	defer w.close()
	var seen atomic.Int64 // answers whose last event a client got
	rnd := b.rand(r.Name)
	r.Rounds = b.rounds(1500, 150)
	var work sync.WaitGroup
	slots := make(chan struct{}, 16)
	for range r.Rounds {
		s := w.newSocket(rnd)
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			got, err := s.run(ctx)
			seen.Add(got)
			if err != nil {
				w.fault("session: %v", err)
			}
		})
	}
	work.Wait()
	var free int64
	err = w.sums(ctx, r, func(rec *usage.Record) {
		switch {
		case rec.Units[usage.Call] != 1:
			r.Excess++
		case rec.Has(usage.Incomplete):
			free++
			r.Excess += rec.Charged(usage.Token)
		}
	}, func(int64) int64 { return w.told.tokens.Load() })
	if err != nil {
		return err
	}
	r.Calls, r.Client2xx, r.Mock2xx, r.Broken = int64(r.Rounds), seen.Load(), w.told.done.Load(), w.told.cut.Load()
	if r.Broken == 0 || seen.Load() >= w.told.done.Load() {
		r.OK = false
		r.fail("the trial shows nothing: %d answers, %d seen to their end, %d cut", w.told.done.Load(), seen.Load(), r.Broken)
	}
	return nil
}

// socket is one session to be.
type socket struct {
	w       *world
	url     string
	header  http.Header
	answers int // to ask for
	leave   int // how
	after   int // events of the last answer after which the client leaves
	cut     bool
}

func (w *world) newSocket(rnd *rand.Rand) *socket {
	p := w.product()
	_, rest, _ := strings.Cut(p.BaseURL, "://")
	s := &socket{
		w: w, url: "ws://" + w.hosts()[0] + rest[strings.IndexByte(rest, '/'):] + "/realtime?model=" + p.Model,
		answers: 1 + rnd.IntN(3), leave: rnd.IntN(leaveKinds), after: rnd.IntN(20), cut: rnd.IntN(6) == 0,
	}
	s.header = http.Header{
		"Authorization": {"Bearer " + p.APIKey}, "X-Mock-Tokens": {fmt.Sprintf("%d,%d", 10+rnd.IntN(90), 100+rnd.IntN(900))},
		"X-Mock-Chunks": {"20"}, "X-Mock-Chunk-Delay": {fmt.Sprintf("%dus", 200+rnd.IntN(2000))},
	}
	if s.cut {
		s.header.Set("X-Mock-Break", fmt.Sprint(rnd.IntN(20)))
	}
	return s
}

// run returns how many answers the client saw to their end.
func (s *socket) run(ctx context.Context) (seen int64, err error) {
	d := websocket.Dialer{HandshakeTimeout: sessionLimit}
	conn, _, err := d.DialContext(ctx, s.url, s.header)
	if err != nil {
		return 0, fmt.Errorf("handshake: %w", err)
	}
	defer func() { _ = conn.Close() }() // it may be closed
	if err := conn.SetReadDeadline(time.Now().Add(sessionLimit)); err != nil {
		return 0, err
	}
	for i := range s.answers {
		last := i == s.answers-1
		if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"response.create"}`)); err != nil {
			return seen, s.broke(err)
		}
		if last && s.leave == leaveAtOnce {
			return seen, nil
		}
		for events, done := 0, false; !done; events++ {
			if last && events >= s.after && s.leave != leaveClose {
				s.depart(conn)
				return seen, nil
			}
			_, text, err := conn.ReadMessage()
			if err != nil {
				return seen, s.broke(err)
			}
			switch kind := gjson.GetBytes(text, "type").Str; kind {
			case "response.done":
				done = true
				seen++
			case "error":
				return seen, fmt.Errorf("%s", text)
			}
		}
	}
	return seen, conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}

// broke is the error of a session that ended: none where that was wanted.
func (s *socket) broke(err error) error {
	if s.cut {
		return nil
	}
	return err
}

// depart leaves in the middle of an answer.
func (s *socket) depart(conn *websocket.Conn) {
	switch s.leave {
	case leaveReset:
		if tcp, ok := conn.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	case leaveFrame:
		_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(time.Second))
	}
}

// realtime takes the mock's word on an answer of a session.
func (a *answered) realtime(r bench.RealtimeAnswer) {
	if !r.Done {
		a.cut.Add(1)
		return
	}
	a.done.Add(1)
	a.tokens.Add(r.Tokens)
}
