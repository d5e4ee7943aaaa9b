package admin

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"tollgate/admin/seal"
	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
)

// Config is what may be set of the admin role. The zero value of each field
// means its default.
type Config struct {
	// Region is where this deployment serves: the region of its applications
	// and of its snapshots (API-7). Default "cn-north-4".
	Region string
	// FeedSecret guards the feed to gateways in other processes. Empty turns
	// the feed off.
	FeedSecret string
	// GatewayURL is where callers reach the gateway, without a slash at the
	// end: base addresses in answers begin with it. Empty: they are paths.
	GatewayURL string
	// MaxBody bounds a request body of the API, in bytes. Default 1 MiB.
	MaxBody int64
	// MaxUsageBody bounds a batch of usage records from a gateway, in bytes.
	// Default 16 MiB.
	MaxUsageBody int64
	// MaxAPIKeys is KEY-4. Default 20.
	MaxAPIKeys int
	// MaxApplications bounds the applications of an account. Default 50.
	MaxApplications int
	// MaxAppCodes bounds the AppCodes of an application. Default 5.
	MaxAppCodes int
	// PublicUpstreamsOnly refuses sellers' upstreams with addresses of private
	// networks. Default false: a marketplace inside a company forwards to them.
	PublicUpstreamsOnly bool
	// CredentialLimits are what the gateways allow a credential that has no
	// limits of its own. A buyer may tighten the limits of its credentials, and
	// only an operator may go beyond these.
	CredentialLimits directory.Limits
	// SessionIdle ends a session of the console that nobody uses. Default 2 h.
	SessionIdle time.Duration
	// SessionMax ends every session of the console. Default 24 h.
	SessionMax time.Duration
	// ConfirmFor is how long an entered password opens what asks for it again.
	// Default 5 min.
	ConfirmFor time.Duration
	// SignInTries is how often one name may be tried from one address within
	// SignInWindow; 6 times as often from everywhere, and one address may try 20
	// times as often. Default 5.
	SignInTries int64
	// SignInWindow is how long tries count and locks last. Default 15 min.
	SignInWindow time.Duration
	// Poll is how often waiting gateways look for changes made by another admin
	// process on the same database. Default 1 s.
	Poll time.Duration
}

func (c *Config) setDefaults() {
	def(&c.Region, "cn-north-4")
	def(&c.MaxBody, 1<<20)
	def(&c.MaxUsageBody, 16<<20)
	def(&c.MaxAPIKeys, 20)
	def(&c.MaxApplications, 50)
	def(&c.MaxAppCodes, 5)
	def(&c.SessionIdle, 2*time.Hour)
	def(&c.SessionMax, 24*time.Hour)
	def(&c.ConfirmFor, 5*time.Minute)
	def(&c.SignInTries, 5)
	def(&c.SignInWindow, 15*time.Minute)
	def(&c.Poll, time.Second)
}

func def[T comparable](dst *T, value T) {
	var zero T
	if *dst == zero {
		*dst = value
	}
}

// Deps are what the admin role works with.
type Deps struct {
	DB      *sqldb.DB
	Box     *seal.Box // seals what must be read back
	Billing Billing

	// Each of these may be nil: what needs it then answers 503.
	Quota      QuotaReader
	Usage      UsageReader
	Reconciler Reconciler
	Rebuilder  Rebuilder
	Rating     Rating
	Messages   Messages
	Jobs       Jobs
	// UsageSink keeps the records of gateways in other processes.
	UsageSink UsageSink
	// LastUsed tells when API keys were last used. Nil: it is not shown.
	LastUsed LastUsedReader

	Log *slog.Logger     // default: discards
	Now func() time.Time // default time.Now
}

// Server is the admin role: its HTTP side as an http.Handler for /api/v1 and
// /feed/v1, and its services as methods, which act by the operator's hand
// unless they take an Actor. It is safe for concurrent use.
type Server struct {
	cfg  Config
	deps Deps
	db   *sqldb.DB
	box  *seal.Box
	log  *slog.Logger
	now  func() time.Time

	pepper   []byte // key of the hashes in snapshots
	tokenKey []byte // key of the hashes of tokens and of repeated requests

	source   *Source
	mux      *http.ServeMux
	api      huma.API
	document []byte // the OpenAPI document
	routes   []route
	failures atomic.Int64
	statuses nodeStatuses
	outside  sync.Mutex // see onceOutside

	closing context.Context // done once Close was called
	close   context.CancelFunc
}

// New brings the tables to the newest schema and returns a Server. A database
// sealed under another master key is seal.ErrOpen.
func New(ctx context.Context, cfg Config, deps Deps) (*Server, error) {
	switch {
	case deps.DB == nil:
		return nil, errors.New("admin: Deps.DB is not set")
	case deps.Box == nil:
		return nil, errors.New("admin: Deps.Box is not set")
	case deps.Billing == nil:
		return nil, errors.New("admin: Deps.Billing is not set")
	}
	cfg.setDefaults()
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Server{cfg: cfg, deps: deps, db: deps.DB, box: deps.Box, log: deps.Log, now: deps.Now}
	s.closing, s.close = context.WithCancel(context.Background())
	if n := len(cfg.FeedSecret); n > 0 && n < 16 {
		s.log.Warn("the feed secret is short enough to be guessed: set TOLLGATE_FEED_SECRET to at least 16 random characters")
	}
	s.source = &Source{server: s, changed: make(chan struct{})}
	if err := s.db.Migrate(ctx, Migrations()); err != nil {
		return nil, err
	}
	if err := s.loadPepper(ctx); err != nil {
		return nil, err
	}
	if err := s.buildAPI(); err != nil {
		return nil, err
	}
	return s, nil
}

// loadPepper reads the pepper, making it at the first start. Of several
// processes that start together, one makes it and all read that.
func (s *Server) loadPepper(ctx context.Context) error {
	const name = "pepper"
	_, err := s.db.Exec(ctx, "INSERT INTO admin_settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, s.box.Seal("settings/"+name, randomHex(32)))
	if err != nil {
		return fmt.Errorf("admin: keep the pepper: %w", err)
	}
	var sealed string
	if err := s.db.QueryRow(ctx, "SELECT value FROM admin_settings WHERE name = $1", name).Scan(&sealed); err != nil {
		return fmt.Errorf("admin: read the pepper: %w", err)
	}
	text, err := s.box.Open("settings/"+name, sealed)
	if err != nil {
		return fmt.Errorf("admin: database %s: %w", s.db.Where(), err)
	}
	if s.pepper, err = hex.DecodeString(text); err != nil {
		return fmt.Errorf("admin: the pepper is damaged: %w", err)
	}
	s.tokenKey = directory.Hash(s.pepper, "tollgate admin tokens")
	return nil
}

// Close ends the long polls that wait, so that a server can be shut down without
// waiting for them: it is for http.Server.RegisterOnShutdown. Everything else
// goes on, and it may be called again.
func (s *Server) Close() { s.close() }

// Source returns the in-process source of directory snapshots.
func (s *Server) Source() *Source { return s.source }

// Failures returns how many requests ended in an internal error, for a metric.
func (s *Server) Failures() int64 { return s.failures.Load() }

// audit writes a line about something done that must be traceable.
func (s *Server) audit(ctx context.Context, a Actor, action string, attrs ...slog.Attr) {
	attrs = append([]slog.Attr{
		slog.String("action", action), slog.String("role", string(a.Role)), slog.String("account", a.Account),
		slog.String("token_id", a.Token), slog.String("user_id", a.User), slog.String("request_id", requestID(ctx)),
	}, attrs...)
	s.log.LogAttrs(ctx, slog.LevelInfo, "audit", attrs...)
}
