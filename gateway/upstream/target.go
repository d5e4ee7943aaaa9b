package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Config holds the limits of a target. Zero fields take the defaults.
type Config struct {
	// ConnectTimeout bounds dialling and the TLS handshake. Default 5s (NFR-5).
	ConnectTimeout time.Duration
	// FirstByteTimeout bounds the wait from the end of the request to the
	// answer's header. Default 300s (NFR-5, EXT-3).
	FirstByteTimeout time.Duration
	// IdleTimeout bounds the gap between two reads of the answer's body.
	// Default 60s (NFR-5).
	IdleTimeout time.Duration
	// WriteTimeout bounds sending the request. Default 60s.
	WriteTimeout time.Duration
	// KeepAlive is how long an idle connection is kept. Default 30s. Keep it
	// below the upstream's own limit: a connection it closed first costs a
	// redial.
	KeepAlive time.Duration
	// MaxIdle is how many idle connections are kept. Default 512; each costs
	// two buffers of BufferSize.
	MaxIdle int
	// MaxConns bounds the calls under way, each of which has a connection of its
	// own; further ones fail with OpBusy. Default: no limit.
	MaxConns int
	// MaxAge is the age at which a connection is not used again, so that
	// changes of DNS are followed. Default 5m.
	MaxAge time.Duration
	// BufferSize of the reader and the writer of a connection, and so the
	// longest header accepted from the upstream. Default 16 KiB.
	BufferSize int
	// ServerName is what TLS asks for and checks. Default: the URL's host.
	ServerName string
	// CA holds the certificates to trust in PEM form. Default: the system's.
	CA string
	// SkipVerify accepts any certificate. Default false.
	SkipVerify bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.ConnectTimeout, 5*time.Second)
	set(&c.FirstByteTimeout, 300*time.Second)
	set(&c.IdleTimeout, 60*time.Second)
	set(&c.WriteTimeout, 60*time.Second)
	set(&c.KeepAlive, 30*time.Second)
	set(&c.MaxAge, 5*time.Minute)
	if c.MaxIdle <= 0 {
		c.MaxIdle = 512
	}
	if c.BufferSize <= 0 {
		c.BufferSize = 16 << 10
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Target is one upstream of a product. It is safe for concurrent use.
type Target struct {
	cfg  Config
	addr string // host:port to dial
	host string // Host header
	base string // path prefix of every request, without a trailing slash
	tls  *tls.Config
	name bool   // addr holds a name, not an address
	seed uint64 // tells targets apart in hashing
	key  string

	inFlight atomic.Int64

	mu       sync.Mutex
	idle     []*conn // newest last
	busy     *conn   // head of the list of connections in use
	sweep    *time.Timer
	sweeping bool // the timer runs
	closed   bool
	aborted  bool
}

// NewTarget returns the target at rawURL, http or https, with an optional base
// path. The URL must not carry credentials, a query or a fragment.
func NewTarget(rawURL string, cfg Config) (*Target, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("upstream url %q: %w", rawURL, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("upstream url %q: scheme must be http or https", u.Redacted())
	case u.Hostname() == "":
		return nil, fmt.Errorf("upstream url %q: host is missing", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("upstream url %q: put credentials into a header of the upstream, not into its url", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("upstream url %q: query and fragment are not allowed", u.Redacted())
	}
	t := &Target{key: Identity(rawURL, cfg), cfg: cfg.withDefaults(), host: u.Host, base: strings.TrimRight(u.EscapedPath(), "/")}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	t.addr = net.JoinHostPort(u.Hostname(), port)
	_, err = netip.ParseAddr(u.Hostname())
	t.name = err != nil
	t.seed = Key([]byte(rawURL))
	if u.Scheme == "https" {
		t.tls = &tls.Config{
			MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName, InsecureSkipVerify: cfg.SkipVerify,
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
			// Only HTTP/1.1 is spoken here; offering h2 would make the peer speak it.
			NextProtos: []string{"http/1.1"},
		}
		if t.tls.ServerName == "" {
			t.tls.ServerName = u.Hostname()
		}
		if cfg.CA != "" {
			t.tls.RootCAs = x509.NewCertPool()
			if !t.tls.RootCAs.AppendCertsFromPEM([]byte(cfg.CA)) {
				return nil, fmt.Errorf("upstream url %q: its CA must be one or more certificates in PEM form", u.Redacted())
			}
		}
	}
	return t, nil
}

// Identity tells targets apart: those of one address and one configuration can
// be one.
func Identity(rawURL string, cfg Config) string {
	cfg.Now = nil
	return fmt.Sprintf("%s %+v", rawURL, cfg)
}

// Key is the target's Identity.
func (t *Target) Key() string { return t.key }

// Host is the value of the Host header for this target.
func (t *Target) Host() string { return t.host }

// Base is the path prefix of this target, without a trailing slash.
func (t *Target) Base() string { return t.base }

// InFlight is the number of exchanges under way.
func (t *Target) InFlight() int64 { return t.inFlight.Load() }

// Close closes the idle connections; those in use close when they end.
func (t *Target) Close() {
	t.mu.Lock()
	idle := t.idle
	t.idle, t.closed = nil, true
	if t.sweep != nil {
		t.sweep.Stop()
	}
	t.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
}

// Abort closes the target and cuts the connections in use, whose exchanges
// fail.
func (t *Target) Abort() {
	t.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aborted = true
	for c := t.busy; c != nil; c = c.next {
		_ = c.Close() // its exchange sees it and closes it once more
	}
}

// acquire returns a live idle connection or dials one. fresh asks for a new one.
func (t *Target) acquire(now time.Time, fresh bool, until time.Time) (*conn, error) {
	for !fresh {
		c := t.pop()
		if c == nil {
			break
		}
		if now.Sub(c.idleSince) > t.cfg.KeepAlive || !c.alive(now) {
			t.discard(c)
			continue
		}
		c.reused = true
		return c, nil
	}
	c, err := t.dial(now, until)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.aborted {
		_ = c.Close()
		return nil, &Error{Op: OpConnect, Err: errAborted}
	}
	t.use(c)
	return c, nil
}

// errAborted is the cause of calls that came after Abort.
var errAborted = errors.New("the target was aborted")

// pop takes the idle connection used last, nil when there is none.
func (t *Target) pop() *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.idle)
	if n == 0 {
		return nil
	}
	c := t.idle[n-1]
	t.idle[n-1] = nil
	t.idle = t.idle[:n-1]
	t.use(c)
	return c
}

// use puts c on the list of connections in use. t.mu is held.
func (t *Target) use(c *conn) {
	c.prev, c.next = nil, t.busy
	if t.busy != nil {
		t.busy.prev = c
	}
	t.busy = c
}

// unuse takes c off the list. t.mu is held.
func (t *Target) unuse(c *conn) {
	if c.next != nil {
		c.next.prev = c.prev
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		t.busy = c.next
	}
	c.prev, c.next = nil, nil
}

// discard closes a connection that was in use.
func (t *Target) discard(c *conn) {
	t.mu.Lock()
	t.unuse(c)
	t.mu.Unlock()
	_ = c.Close()
}

// release keeps a connection for another request.
func (t *Target) release(c *conn, now time.Time) {
	c.idleSince = now
	c.reused = false
	t.mu.Lock()
	t.unuse(c)
	if t.closed || len(t.idle) >= t.cfg.MaxIdle || now.Sub(c.born) > t.cfg.MaxAge {
		t.mu.Unlock()
		_ = c.Close()
		return
	}
	t.idle = append(t.idle, c)
	if !t.sweeping {
		t.armSweep()
	}
	t.mu.Unlock()
}

// armSweep has idle connections closed when their time is over, so that a
// target that is no longer called holds none. t.mu is held.
func (t *Target) armSweep() {
	t.sweeping = true
	if t.sweep == nil {
		t.sweep = time.AfterFunc(t.cfg.KeepAlive, t.sweepIdle)
		return
	}
	t.sweep.Reset(t.cfg.KeepAlive)
}

func (t *Target) sweepIdle() {
	now := t.cfg.Now()
	t.mu.Lock()
	n := 0 // the oldest stand first
	for n < len(t.idle) && now.Sub(t.idle[n].idleSince) >= t.cfg.KeepAlive {
		n++
	}
	stale := append([]*conn(nil), t.idle[:n]...)
	t.idle = append(t.idle[:0], t.idle[n:]...)
	t.sweeping = false
	if len(t.idle) > 0 && !t.closed {
		t.armSweep()
	}
	t.mu.Unlock()
	for _, c := range stale {
		_ = c.Close()
	}
}

// errForbidden says that a name leads to where no upstream is.
var errForbidden = errors.New("the upstream's name leads to an address of this machine's own link: its DNS entry is wrong, or is meant to reach what it must not")

// guard refuses addresses of the machine's own link, cloud metadata among them,
// where they come from a name: what the directory says of the name cannot tell
// where it will lead. An address written out was the operator's choice.
func guard(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if a := ap.Addr().Unmap(); a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return errForbidden
	}
	return nil
}

// dial connects within ConnectTimeout, and before until unless that is zero.
// The name is resolved anew, and several addresses are tried as RFC 8305 says.
func (t *Target) dial(now, until time.Time) (*conn, error) {
	limit := t.cfg.ConnectTimeout
	if left := until.Sub(now); !until.IsZero() && left < limit {
		limit = max(left, time.Nanosecond)
	}
	d := net.Dialer{Timeout: limit, KeepAlive: 30 * time.Second}
	if t.name {
		d.Control = guard
	}
	nc, err := d.Dial("tcp", t.addr)
	if err != nil {
		return nil, &Error{Op: OpConnect, Err: err}
	}
	raw := nc
	if t.tls != nil {
		tc := tls.Client(nc, t.tls)
		_ = tc.SetDeadline(now.Add(limit))
		if err := tc.Handshake(); err != nil {
			_ = nc.Close()
			return nil, &Error{Op: OpConnect, Err: err}
		}
		_ = tc.SetDeadline(time.Time{})
		nc = tc
	}
	c := newConn(nc, raw, t.cfg.BufferSize)
	c.born = now
	return c, nil
}

// Op is the step an exchange failed at.
type Op string

// The steps of an exchange.
const (
	OpBusy    Op = "busy"    // nothing was sent: the target has too much to do
	OpConnect Op = "connect" // nothing was sent
	OpSend    Op = "send"    // part of the request may have been sent
	OpHeader  Op = "header"  // the request was sent, the answer's header did not come
	OpBody    Op = "body"    // the answer broke off
	OpClient  Op = "client"  // the client's request body broke off
)

// Error is a failed exchange.
type Error struct {
	Op  Op
	Err error
}

// Error says which step failed and why.
func (e *Error) Error() string { return "upstream " + string(e.Op) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether a time limit was the cause.
func (e *Error) Timeout() bool {
	var timeout interface{ Timeout() bool } // not net.Error: fasthttp's has no Temporary
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}
