package notify

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"tollgate/internal/sqldb"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations are the tables of this package.
var Migrations = sqldb.Migrations{Owner: "notify", FS: migrationFiles}

// Errors callers tell apart.
var (
	ErrNotFound = errors.New("notify: not found")
	ErrInvalid  = errors.New("notify: invalid")
)

// Outgoing is what a Sender sends.
type Outgoing struct {
	ID       string // the same on every try
	To       string // mail address, phone number or URL
	Language string // zh or en
	Subject  string
	Body     string
	// Unsubscribe is the address for List-Unsubscribe, or "" (RFC 8058).
	Unsubscribe string
	// Secrets sign a webhook, newest first.
	Secrets []string
	// Payload of a webhook, JSON.
	Payload []byte
	At      time.Time
}

// Sender sends through one channel. It returns the other side's code, with an
// error that is a *Refusal where trying again would not help.
type Sender interface {
	Send(ctx context.Context, o Outgoing) (code string, err error)
}

// Refusal is an answer that says: not this one, not later either.
type Refusal struct {
	Code string
	// Gone says that the address itself is to be used no more.
	Gone bool
	Err  error
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns what the other side said.
func (r *Refusal) Unwrap() error { return r.Err }

// Delay is an answer that names when to come back.
type Delay struct {
	After time.Duration
	Err   error
}

func (d *Delay) Error() string { return d.Err.Error() }

// Unwrap returns what the other side said.
func (d *Delay) Unwrap() error { return d.Err }

// Sealer keeps the secrets of endpoints unreadable in the database. place binds
// a sealed text to its row.
type Sealer interface {
	Seal(place, plain string) (string, error)
	Open(place, sealed string) (string, error)
}

// Options are what a Service needs.
type Options struct {
	DB   *sqldb.DB
	Now  func() time.Time // default time.Now
	Log  *slog.Logger     // nil discards; addresses and texts are never logged
	Seal Sealer           // for webhook secrets; nil refuses endpoints

	// Senders by channel. A channel without one keeps its deliveries unsent.
	Senders map[Channel]Sender

	// BaseURL of the console, for the links in texts: "https://console.example".
	BaseURL string
	// Key signs unsubscribe links; at least 16 bytes, or no link is made.
	Key []byte

	// GroupWait is how long a mail waits for others of its category to the same
	// receiver. Default 5 s; negative: none.
	GroupWait time.Duration
	// DigestHour is the hour of the daily digest in UTC+8. Default 10.
	DigestHour int
	// SendTimeout bounds one try. Default 30 s.
	SendTimeout time.Duration
	// Poll is how often Run looks for what is due. Default 1 s.
	Poll time.Duration
	// Jitter returns a number in [0, 1) by which pauses vary; default random.
	Jitter func() float64
}

// Service is the message centre on one database. It is safe for concurrent
// use, also by several processes.
type Service struct {
	o    Options
	db   *sqldb.DB
	kick chan struct{}
}

// New returns a Service after bringing its tables to the newest schema.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.DB == nil {
		return nil, errors.New("notify: Options.DB is not set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.GroupWait == 0:
		o.GroupWait = 5 * time.Second
	case o.GroupWait < 0:
		o.GroupWait = 0
	}
	if o.DigestHour == 0 {
		o.DigestHour = 10
	}
	if o.SendTimeout <= 0 {
		o.SendTimeout = 30 * time.Second
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	if err := o.DB.Migrate(ctx, Migrations); err != nil {
		return nil, err
	}
	return &Service{o: o, db: o.DB, kick: make(chan struct{}, 1)}, nil
}

func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Millisecond) }

// Run sends what is due until ctx ends, which is no error.
func (s *Service) Run(ctx context.Context) error {
	for {
		n, err := s.SendDue(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.o.Log.Error("notices cannot be read", "error", err)
		}
		if n > 0 {
			continue
		}
		t := time.NewTimer(s.o.Poll)
		select {
		case <-ctx.Done():
		case <-s.kick:
		case <-t.C:
		}
		t.Stop()
	}
}

func (s *Service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
