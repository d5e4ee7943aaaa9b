package config

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Config is everything that can be set. Each leaf says its default.
type Config struct {
	// Role of this process: all, gateway or admin. Default all.
	Role string `koanf:"role"`
	// Data is the folder of everything this process keeps. Default ./tollgate-data.
	Data string `koanf:"data"`
	// Node names this gateway. Default: made at the first start and kept in Data.
	Node string `koanf:"node"`
	// Region of this installation (API-7). Default cn-north-4.
	Region string `koanf:"region"`

	// The sections, each with its own comments below.
	Gateway Gateway `koanf:"gateway"`
	Admin   Admin   `koanf:"admin"`
	Feed    Feed    `koanf:"feed"`
	Quota   Quota   `koanf:"quota"`
	Journal Journal `koanf:"journal"`
	SQL     SQL     `koanf:"sql"`
	Usage   Usage   `koanf:"usage"`
	Log     Log     `koanf:"log"`
	Notify  Notify  `koanf:"notify"`
	// Master key that seals secrets in the SQL store, 32 bytes as 64
	// hexadecimal digits, or file:PATH. Default: made at the first start and
	// kept in Data; set it where several admin processes share one store.
	MasterKey Secret `koanf:"master_key"`
	// DrainDelay is how long calls are served as before after SIGTERM, while
	// /readyz already answers 503 and each answer asks for the connection to be
	// closed: the time a balancer needs to look away. Behind one, set it to two
	// of its probes' intervals. Default 0s, for a program stopped by hand.
	DrainDelay time.Duration `koanf:"drain_delay"`
	// HeapFloor is what the heap may grow to before garbage is collected; above
	// it Go's usual rule (GOGC) decides. A gateway lives on little memory and
	// would collect many times a second to keep it little. Default 64MiB; 0
	// leaves all to GOGC.
	HeapFloor Size `koanf:"heap_floor"`
	// ShutdownTimeout bounds what follows: no new connections, running calls
	// finish. Whoever stops the program must wait for both. Default 30s.
	ShutdownTimeout time.Duration `koanf:"shutdown_timeout"`
}

// Gateway is the data plane.
type Gateway struct {
	// Listen address of the plain HTTP port; port 0 picks a free one. Default
	// 127.0.0.1:8080.
	Listen string `koanf:"listen"`
	// TLSListen is the address of the https port; "off" turns it off. Default
	// "auto": port 8443 beside a plain port of 8080, a free one otherwise, on
	// the same host.
	TLSListen string `koanf:"tls_listen"`
	// ReusePort lets a second gateway, with a data folder of its own, listen on
	// the same ports, so that it takes over before this one is stopped and no
	// connection is refused. Both need it set. Linux only. Default false.
	ReusePort bool `koanf:"reuse_port"`
	// TLSCert and TLSKey are PEM files. Default: a self-signed certificate made
	// at the first start and kept in Data.
	TLSCert string `koanf:"tls_cert"`
	TLSKey  string `koanf:"tls_key"`
	// ErrorPrefix of error codes, APIGW. or APIG. Default APIGW.
	ErrorPrefix string `koanf:"error_prefix"`
	// MaxBody of a request. Default 4MiB (NFR-5).
	MaxBody Size `koanf:"max_body"`
	// MaxSignedBody of a request whose signature covers the body. Default 12MiB.
	MaxSignedBody Size `koanf:"max_signed_body"`
	// MaxUpload of a multipart body, a file or an upload sent to an LLM product.
	// Default 512MiB; beyond 1MiB it passes through a temporary file until its
	// model was found.
	MaxUpload Size `koanf:"max_upload"`
	// MaxSession of a realtime WebSocket. Default 60m; it holds the estimate of
	// one answer all the time.
	MaxSession time.Duration `koanf:"max_session"`
	// MaxHeader bounds request line and header. Default 16KiB (NFR-5). Each
	// connection costs one such buffer.
	MaxHeader Size `koanf:"max_header"`
	// MaxAnswerBuffer bounds an LLM answer that is read whole so that its charge
	// stands in the header. Default 1MiB.
	MaxAnswerBuffer Size `koanf:"max_answer_buffer"`
	// ReadTimeout bounds the arrival of a body behind the header. Default 60s.
	ReadTimeout time.Duration `koanf:"read_timeout"`
	// IdleTimeout closes kept-alive client connections. Default 75s.
	IdleTimeout time.Duration `koanf:"idle_timeout"`
	// WriteTimeout bounds one write to a client that does not read. Default 60s.
	WriteTimeout time.Duration `koanf:"write_timeout"`
	// ConnectTimeout to an upstream. Default 5s (NFR-5).
	ConnectTimeout time.Duration `koanf:"connect_timeout"`
	// FirstByteTimeout of an upstream's answer. Default 300s (NFR-5).
	FirstByteTimeout time.Duration `koanf:"first_byte_timeout"`
	// StreamIdleTimeout between two reads of an answer. Default 60s (NFR-5).
	StreamIdleTimeout time.Duration `koanf:"stream_idle_timeout"`
	// TotalTimeout of a call with all its attempts and its answer. Default 1h.
	// A product can set its own, as of the three above.
	TotalTimeout time.Duration `koanf:"total_timeout"`
	// SignatureSkew is how far x-sdk-date may be off. Default 15m (AUTH-17).
	SignatureSkew time.Duration `koanf:"signature_skew"`
	// TrustedProxies are networks whose X-Forwarded-For, -Proto and -Host are
	// believed, as CIDR. Default none.
	TrustedProxies []string `koanf:"trusted_proxies"`
	// Forwarded takes the same from Forwarded (RFC 7239) instead; set it only
	// where the proxies write that field themselves. Default false.
	Forwarded bool `koanf:"forwarded"`
	// ProxyProtocol lists the networks of balancers whose connections may begin
	// with a PROXY header, version 1 or 2. Default none.
	ProxyProtocol []string `koanf:"proxy_protocol"`
	// Allow and Deny are the networks that are served, and not; what is in both
	// is not. Default: everybody is.
	Allow []string `koanf:"allow"`
	Deny  []string `koanf:"deny"`
	// HeaderTimeout bounds the arrival of a request's header, with a body of up
	// to 8 KiB. Default 10s.
	HeaderTimeout time.Duration `koanf:"header_timeout"`
	// MaxURI bounds the request target; max_header bounds it too. Default 16KiB;
	// APIG takes 32KiB, and 128KiB of header: set both where callers need it.
	MaxURI Size `koanf:"max_uri"`
	// The sections, each with its own comments below.
	Limits      Limits      `koanf:"limits"`
	Idempotency Idempotency `koanf:"idempotency"`
	AccessLog   AccessLog   `koanf:"access_log"`
	Trace       Trace       `koanf:"trace"`
	// PlainAppCode accepts AppCodes over http, for local tests; AUTH-5 forbids
	// it. Default false.
	PlainAppCode bool `koanf:"plain_app_code"`
	// PerCallSwitch is the instant from which per-call packages count 2xx only
	// (METER-1, METER-2). Default 2025-07-16T00:00:00+08:00.
	PerCallSwitch time.Time `koanf:"per_call_switch"`
	// HoldCap bounds the tokens held for one call. Default 4096.
	HoldCap int64 `koanf:"hold_cap"`
	// HoldDefault is the output estimate of a call without max_tokens. Default 512.
	HoldDefault int64 `koanf:"hold_default"`
	// HoldSlice is by how many tokens a stream's hold grows, and the most a
	// stream may use beyond its package before it is ended. Default 256; less
	// asks the quota store more often near the end of a package.
	HoldSlice int64 `koanf:"hold_slice"`
	// CheckpointEvery and CheckpointUnits: a stream charged by tokens is recorded
	// provisionally after this time or this many tokens, and before its first
	// byte. They bound what a kill -9 makes free of it. Defaults 1s, 256; each
	// record costs about a microsecond and 300 bytes of journal.
	CheckpointEvery time.Duration `koanf:"checkpoint_every"`
	CheckpointUnits int64         `koanf:"checkpoint_units"`
	// DrainTimeout and DrainBytes bound the reading on after a client left
	// mid-stream; MaxDrains how many at once. Defaults 60s, 16MiB, 256.
	DrainTimeout time.Duration `koanf:"drain_timeout"`
	DrainBytes   Size          `koanf:"drain_bytes"`
	MaxDrains    int64         `koanf:"max_drains"`
	// RecordFailed keeps an uncharged usage row of forwarded calls that did not
	// count. Default true; costs a row per failed call.
	RecordFailed bool `koanf:"record_failed"`
	// RecordRefused keeps one of authenticated calls the gateway refused.
	// Default false: a refused flood would fill the store.
	RecordRefused bool `koanf:"record_refused"`
}

// Feed is what ties gateways of other processes to the admin role.
type Feed struct {
	// Secret both sides share, or file:PATH. Empty turns the feed off.
	Secret Secret `koanf:"secret"`
}

// Quota is the store of lots.
type Quota struct {
	// Store: embedded, redis://, redis+cluster:// or redis+sentinel://. Default
	// embedded.
	Store Secret `koanf:"store"`
	// Sync is how often what was used is told to the store. Default 1s; less
	// costs more commands to Redis.
	Sync time.Duration `koanf:"sync"`
	// LeaseTTL is how long a node may spend a block without hearing from the
	// store. Default 30s.
	LeaseTTL time.Duration `koanf:"lease_ttl"`
	// Crossings is how often the admin role fetches crossings of thresholds.
	// Default 1s; each costs one command to Redis.
	Crossings time.Duration `koanf:"crossings"`
	// StoreAway is what becomes of a package whose leases are over while the
	// store is away, where its spec does not say: stop refuses calls with 503
	// until the store is back, continue lets them go on. Default stop. It is
	// written into a package when it is bought.
	StoreAway string `koanf:"store_away"`
	// StoreAwayCredit is how many units of such a package all gateways together
	// may use without asking when StoreAway is continue. Default 0: what was
	// left of it.
	StoreAwayCredit int64 `koanf:"store_away_credit"`
	// StoreAwayFor is how long after the store's last answer on-demand use, and
	// packages that go on, do so where the spec does not say. Default 10m.
	StoreAwayFor time.Duration `koanf:"store_away_for"`
}

// Journal is the node's local journal.
type Journal struct {
	// Segment size; preallocated, four at a time. Default 16MiB.
	Segment Size `koanf:"segment"`
	// SyncInterval of the background fdatasync: the window a power loss may
	// take. Default 20ms.
	SyncInterval time.Duration `koanf:"sync_interval"`
	// FrontDir is where records go first. Empty (default): beside the segments,
	// which survive all but a crash of the machine. A folder on a tmpfs, such as
	// /dev/shm/tollgate, keeps a stalling disk away from every answer; in a
	// container it must outlive the container, or what was not copied is lost
	// with it.
	FrontDir string `koanf:"front_dir"`
	// Strict makes each answer wait for the disk. Default false; costs one
	// fdatasync per group of calls.
	Strict bool `koanf:"strict"`
}

// SQL is the store of catalogue and money.
type SQL struct {
	// Store: embedded or postgres://. Default embedded.
	Store Secret `koanf:"store"`
}

// Log is the program's log.
type Log struct {
	// Level: debug, info, warn or error. Default info.
	Level string `koanf:"level"`
	// Format: text or json. Default text.
	Format string `koanf:"format"`
}

// The roles.
const (
	RoleAll     = "all"
	RoleGateway = "gateway"
	RoleAdmin   = "admin"
)

// Embedded is the name of the built-in stores.
const Embedded = "embedded"

// Default returns the defaults.
func Default() Config {
	return Config{
		Role: RoleAll, Data: "./tollgate-data", Region: "cn-north-4",
		Gateway: Gateway{
			Listen: "127.0.0.1:8080", TLSListen: "auto", ErrorPrefix: "APIGW.",
			MaxBody: 4 << 20, MaxSignedBody: 12 << 20, MaxUpload: 512 << 20, MaxSession: time.Hour, MaxHeader: 16 << 10, MaxAnswerBuffer: 1 << 20,
			ReadTimeout: 60 * time.Second, IdleTimeout: 75 * time.Second, WriteTimeout: 60 * time.Second,
			ConnectTimeout: 5 * time.Second, FirstByteTimeout: 300 * time.Second, StreamIdleTimeout: 60 * time.Second, TotalTimeout: time.Hour,
			SignatureSkew: 15 * time.Minute,
			PerCallSwitch: time.Date(2025, 7, 16, 0, 0, 0, 0, time.FixedZone("", 8*3600)),
			HoldCap:       4096, HoldDefault: 512, HoldSlice: 256, CheckpointEvery: time.Second, CheckpointUnits: 256,
			DrainTimeout: 60 * time.Second, DrainBytes: 16 << 20, MaxDrains: 256,
			RecordFailed:  true,
			HeaderTimeout: 10 * time.Second, MaxURI: 16 << 10,
			Limits: defaultLimits(), Idempotency: defaultIdempotency(),
			AccessLog: AccessLog{File: "off", Buffer: 8192}, Trace: Trace{Sample: .01},
		},
		Admin: Admin{
			Listen: "127.0.0.1:8081", APIKeyLimit: 20, ApplicationLimit: 50, AppCodeLimit: 5,
			SecureCookies: "auto", SessionIdle: 2 * time.Hour, SessionMax: 24 * time.Hour, ConfirmFor: 5 * time.Minute,
			SignInTries: 5, SignInWindow: 15 * time.Minute,
		},
		Quota:   Quota{Store: NewSecret(Embedded), Sync: time.Second, LeaseTTL: 30 * time.Second, Crossings: time.Second, StoreAway: "stop", StoreAwayFor: 10 * time.Minute},
		Journal: Journal{Segment: 16 << 20, SyncInterval: 20 * time.Millisecond},
		SQL:     SQL{Store: NewSecret(Embedded)},
		Notify:  Notify{GroupWait: 5 * time.Second},
		Usage: Usage{
			Store: NewSecret(Embedded), Retention: 9600 * time.Hour, MinuteRetention: 9600 * time.Hour, RollupRetention: 43800 * time.Hour,
			Linger: 200 * time.Millisecond, Timeout: time.Minute, RatingGrace: 10 * time.Minute, RatingLookback: 720 * time.Hour,
		},
		Log:             Log{Level: "info", Format: "text"},
		HeapFloor:       64 << 20,
		ShutdownTimeout: 30 * time.Second,
	}
}

// Validate returns every fault of c, each with the path of its key and what to
// do.
func (c *Config) Validate() error {
	var faults faults
	oneOf := func(path, v string, allowed ...string) {
		for _, a := range allowed {
			if v == a {
				return
			}
		}
		faults.add(path, "%q is not known: use %s", v, strings.Join(allowed, ", "))
	}
	positive := func(path string, v int64) {
		if v <= 0 {
			faults.add(path, "must be above 0")
		}
	}
	oneOf("role", c.Role, RoleAll, RoleGateway, RoleAdmin)
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	oneOf("gateway.error_prefix", c.Gateway.ErrorPrefix, "APIGW.", "APIG.")
	if c.Data == "" {
		faults.add("data", "is empty: name a folder")
	}
	for _, a := range []struct{ path, v string }{
		{"gateway.listen", c.Gateway.Listen}, {"gateway.tls_listen", c.Gateway.TLSListen}, {"admin.listen", c.Admin.Listen},
	} {
		if (a.v == "auto" || a.v == "off") && a.path == "gateway.tls_listen" {
			continue
		}
		if _, _, err := splitHostPort(a.v); err != nil {
			faults.add(a.path, "%q is not an address: write host:port, as in 127.0.0.1:8080", a.v)
		}
	}
	if (c.Gateway.TLSCert == "") != (c.Gateway.TLSKey == "") {
		faults.add("gateway.tls_cert", "set both tls_cert and tls_key, or neither for a self-signed certificate")
	}
	c.validateLimits(&faults)
	for _, v := range []struct {
		path string
		v    int64
	}{
		{"gateway.max_body", int64(c.Gateway.MaxBody)},
		{"gateway.max_signed_body", int64(c.Gateway.MaxSignedBody)},
		{"gateway.max_upload", int64(c.Gateway.MaxUpload)},
		{"gateway.max_header", int64(c.Gateway.MaxHeader)},
		{"gateway.max_answer_buffer", int64(c.Gateway.MaxAnswerBuffer)},
		{"gateway.read_timeout", int64(c.Gateway.ReadTimeout)},
		{"gateway.idle_timeout", int64(c.Gateway.IdleTimeout)},
		{"gateway.write_timeout", int64(c.Gateway.WriteTimeout)},
		{"gateway.connect_timeout", int64(c.Gateway.ConnectTimeout)},
		{"gateway.first_byte_timeout", int64(c.Gateway.FirstByteTimeout)},
		{"gateway.stream_idle_timeout", int64(c.Gateway.StreamIdleTimeout)},
		{"gateway.total_timeout", int64(c.Gateway.TotalTimeout)},
		{"gateway.signature_skew", int64(c.Gateway.SignatureSkew)},
		{"gateway.hold_cap", c.Gateway.HoldCap},
		{"gateway.hold_default", c.Gateway.HoldDefault},
		{"gateway.hold_slice", c.Gateway.HoldSlice},
		{"gateway.checkpoint_every", int64(c.Gateway.CheckpointEvery)},
		{"gateway.checkpoint_units", c.Gateway.CheckpointUnits},
		{"gateway.drain_timeout", int64(c.Gateway.DrainTimeout)},
		{"gateway.drain_bytes", int64(c.Gateway.DrainBytes)},
		{"gateway.max_drains", c.Gateway.MaxDrains},
		{"admin.api_key_limit", int64(c.Admin.APIKeyLimit)},
		{"admin.sign_in_tries", c.Admin.SignInTries},
		{"admin.application_limit", int64(c.Admin.ApplicationLimit)},
		{"admin.app_code_limit", int64(c.Admin.AppCodeLimit)},
		{"quota.sync", int64(c.Quota.Sync)},
		{"quota.lease_ttl", int64(c.Quota.LeaseTTL)},
		{"quota.crossings", int64(c.Quota.Crossings)},
		{"quota.store_away_for", int64(c.Quota.StoreAwayFor)},
		{"journal.segment", int64(c.Journal.Segment)},
		{"journal.sync_interval", int64(c.Journal.SyncInterval)},
		{"usage.linger", int64(c.Usage.Linger)},
		{"usage.timeout", int64(c.Usage.Timeout)},
		{"usage.rating_grace", int64(c.Usage.RatingGrace)},
		{"usage.rating_lookback", int64(c.Usage.RatingLookback)},
		{"shutdown_timeout", int64(c.ShutdownTimeout)},
	} {
		positive(v.path, v.v)
	}
	if c.DrainDelay < 0 {
		faults.add("drain_delay", "must not be below 0")
	}
	switch {
	case c.Quota.StoreAway != "stop" && c.Quota.StoreAway != "continue":
		faults.add("quota.store_away", "must be stop or continue")
	case c.Quota.StoreAwayCredit < 0 || c.Quota.StoreAwayCredit >= 1<<53:
		faults.add("quota.store_away_credit", "must be between 0 and 2^53-1")
	case c.Quota.StoreAway == "stop" && c.Quota.StoreAwayCredit != 0:
		faults.add("quota.store_away_credit", "needs quota.store_away: continue")
	}
	c.validateStores(&faults)
	c.Notify.validate(&faults)
	if k := c.MasterKey.value; k != "" && !isHex(k, 64) {
		faults.add("master_key", "must be 64 hexadecimal digits, or file:PATH of a file that holds them")
	}
	return faults.err()
}

func (c *Config) validateStores(faults *faults) {
	store := func(path string, v Secret, schemes ...string) {
		if v.value == Embedded {
			return
		}
		u, err := url.Parse(v.value)
		// postgres:///db?host=/folder names a socket and has no host part.
		if err == nil && (u.Host != "" || u.Query().Get("host") != "") {
			for _, s := range schemes {
				if u.Scheme == s {
					return
				}
			}
		}
		faults.add(path, "is not a store: use embedded or %s://…", strings.Join(schemes, "://…, "))
	}
	store("quota.store", c.Quota.Store, "redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel")
	store("sql.store", c.SQL.Store, "postgres", "postgresql")
	store("usage.store", c.Usage.Store, "clickhouse", "clickhouse+http", "clickhouse+https")
	if c.Usage.Cluster != "" && c.Usage.Store.value == Embedded {
		faults.add("usage.cluster", "is for ClickHouse only: set usage.store to clickhouse://…, or leave it empty")
	}
	for _, v := range []struct {
		path string
		v    int64
	}{
		{"usage.retention", int64(c.Usage.Retention)},
		{"usage.minute_retention", int64(c.Usage.MinuteRetention)},
		{"usage.rollup_retention", int64(c.Usage.RollupRetention)},
		{"usage.batch", int64(c.Usage.Batch)},
		{"usage.max_backlog", int64(c.Usage.MaxBacklog)},
	} {
		if v.v < 0 {
			faults.add(v.path, "must be 0 or more")
		}
	}
	if c.Usage.Batch > 500_000 {
		faults.add("usage.batch", "must be at most 500000")
	}
	if c.Role != RoleGateway {
		if c.Admin.URL != "" {
			faults.add("admin.url", "is for role gateway only: this process has the admin role itself")
		}
		return
	}
	if c.Admin.URL == "" {
		faults.add("admin.url", "is missing: a gateway takes its directory from the admin role; set --admin-url")
	} else if u, err := url.Parse(c.Admin.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		faults.add("admin.url", "%q is not an http or https address", c.Admin.URL)
	}
	if c.Feed.Secret.value == "" {
		faults.add("feed.secret", "is missing: set TOLLGATE_FEED_SECRET to the same text for the admin role and its gateways")
	}
	if c.Quota.Store.value == Embedded {
		faults.add("quota.store", "embedded works within one process only: give the admin role and its gateways the same redis:// store")
	}
}

// faults gathers what is wrong.
type faults []string

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, path+": "+fmt.Sprintf(format, args...))
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &Error{Faults: f}
}

// Error lists what is wrong with a configuration.
type Error struct{ Faults []string }

// Error returns the faults on one line.
func (e *Error) Error() string { return "configuration: " + strings.Join(e.Faults, "; ") }
