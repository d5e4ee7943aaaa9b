package gateway

import (
	"net/netip"
	"time"
)

// Config holds the settings of the data plane. Zero fields take the defaults.
type Config struct {
	// ErrorPrefix stands before the digits of an error code: "APIGW." (what
	// the source guide tells callers to look for) or "APIG.". Default "APIGW.".
	ErrorPrefix string
	// MaxBody bounds a request body. Default 4 MiB (NFR-5).
	MaxBody int64
	// MaxSignedBody bounds the body of a request whose signature covers it,
	// because it is read whole to be hashed. Default 12 MiB (gateway-wire 1.5).
	MaxSignedBody int64
	// MaxUpload bounds a multipart body of an LLM product and what is sent to its
	// files and uploads. Default 512 MiB (the OpenAI API's own limit of a file).
	MaxUpload int64
	// MaxSession bounds a realtime session. Default 60m, as OpenAI's own does.
	MaxSession time.Duration
	// SpoolMemory is how much of a multipart body is kept in memory until its
	// model was found; more goes to a temporary file in SpoolDir. Default 1 MiB;
	// each such call under way may use it.
	SpoolMemory int
	// SpoolDir holds those files, which are removed as soon as they are open.
	// Default: the system's folder for temporary files.
	SpoolDir string
	// MaxHeader bounds the request line and header together. Default 16 KiB
	// (NFR-5); each connection costs one such buffer.
	MaxHeader int
	// ReadTimeout bounds the arrival of a request's body. Default 60s.
	ReadTimeout time.Duration
	// IdleTimeout closes a kept-alive client connection. Default 75s.
	IdleTimeout time.Duration
	// WriteTimeout bounds one write to a client that does not read. Default 60s.
	WriteTimeout time.Duration
	// Upstream limits: see upstream.Config for their defaults.
	ConnectTimeout, FirstByteTimeout, StreamIdleTimeout time.Duration
	// TotalTimeout bounds a call with all its attempts and its answer. Default 1h.
	TotalTimeout time.Duration
	// MaxAnswerBuffer bounds the answer of an LLM product that is read whole,
	// so that its charge can stand in the header. A larger one is relayed as it
	// comes. Default 1 MiB.
	MaxAnswerBuffer int
	// MaxEvent bounds one server-sent event that is looked into. A larger one
	// is relayed unread. Default 8 MiB.
	MaxEvent int
	// SignatureSkew is how far x-sdk-date may be off. Default 15m (AUTH-17).
	SignatureSkew time.Duration
	// TrustedProxies may tell the client's address, host and scheme, by
	// X-Forwarded-For, -Host and -Proto. Default none.
	TrustedProxies []netip.Prefix
	// Forwarded takes them from Forwarded (RFC 7239) instead. Only what the
	// proxies write themselves may be believed. Default false.
	Forwarded bool
	// Allow and Deny are the networks whose clients are served, and not. What is
	// in both is not. Default: everybody is.
	Allow, Deny []netip.Prefix
	// HeaderTimeout bounds the arrival of a request's header, and of a body of up
	// to 8 KiB with it; ReadTimeout that of a larger body behind it. Default 10s.
	HeaderTimeout time.Duration
	// MaxURI bounds the request target. Default MaxHeader.
	MaxURI int
	// Idempotency says what is kept of answered calls.
	Idempotency IdempotencyConfig
	// Limits of calls.
	Limits LimitConfig
	// PlainAppCode accepts AppCodes over plain http. For local tests only:
	// AUTH-5 forbids it. Default false.
	PlainAppCode bool
	// PerCallSwitch is the instant from which per-call packages count 2xx only
	// (METER-1, METER-2, METER-4). Default 2025-07-16T00:00:00+08:00.
	PerCallSwitch time.Time
	// HoldCap bounds the estimate that is held for a token call. Default 4096.
	HoldCap int64
	// HoldDefault is the output estimate of a request without max_tokens.
	// Default 512.
	HoldDefault int64
	// HoldSlice is by how many tokens the hold of a stream grows when its use
	// comes near what is held, and the most a stream may use beyond its package.
	// Default 256; less costs more questions to the quota store near the end of
	// a package.
	HoldSlice int64
	// CheckpointEvery and CheckpointUnits say when a stream charged by tokens
	// gets another provisional record: after that time or that many tokens,
	// whichever is first. They bound what a crash makes free of a stream. The
	// first one is written before its first byte is delivered. Defaults 1s, 256;
	// each record costs about a microsecond.
	CheckpointEvery time.Duration
	CheckpointUnits int64
	// DrainTimeout, DrainBytes and MaxDrains bound the reading on after a
	// client left mid-stream. Defaults 60s, 16 MiB, 256.
	DrainTimeout time.Duration
	DrainBytes   int64
	MaxDrains    int64
	// RecordFailed keeps a usage record, uncharged, of forwarded calls that did
	// not count. Default true in the program's configuration.
	RecordFailed bool
	// RecordRefused keeps a usage record of authenticated calls that the
	// gateway refused. Default false: a refused flood would fill the journal.
	RecordRefused bool
	// Region of this gateway, for the records.
	Region string
	// Node is this gateway's name, for the records.
	Node string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// DefaultPerCallSwitch is the instant of METER-2.
var DefaultPerCallSwitch = time.Date(2025, 7, 16, 0, 0, 0, 0, time.FixedZone("Asia/Shanghai", 8*3600))

func (c Config) withDefaults() Config {
	if c.ErrorPrefix == "" {
		c.ErrorPrefix = "APIGW."
	}
	setInt := func(p *int64, v int64) {
		if *p <= 0 {
			*p = v
		}
	}
	setDur := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	setInt(&c.MaxBody, 4<<20)
	setInt(&c.MaxSignedBody, 12<<20)
	setInt(&c.MaxUpload, 512<<20)
	setInt(&c.HoldCap, 4096)
	setInt(&c.HoldDefault, 512)
	setInt(&c.HoldSlice, 256)
	setInt(&c.CheckpointUnits, 256)
	setDur(&c.CheckpointEvery, time.Second)
	setInt(&c.DrainBytes, 16<<20)
	setInt(&c.MaxDrains, 256)
	if c.MaxHeader <= 0 {
		c.MaxHeader = 16 << 10
	}
	if c.SpoolMemory <= 0 {
		c.SpoolMemory = 1 << 20
	}
	if c.MaxAnswerBuffer <= 0 {
		c.MaxAnswerBuffer = 1 << 20
	}
	if c.MaxEvent <= 0 {
		c.MaxEvent = 8 << 20
	}
	setDur(&c.ReadTimeout, 60*time.Second)
	setDur(&c.HeaderTimeout, min(10*time.Second, c.ReadTimeout))
	setDur(&c.Idempotency.Timeout, 500*time.Millisecond)
	if c.Idempotency.MaxAnswer <= 0 {
		c.Idempotency.MaxAnswer = 1 << 20
	}
	if c.MaxURI <= 0 {
		c.MaxURI = c.MaxHeader
	}
	setDur(&c.IdleTimeout, 75*time.Second)
	setDur(&c.WriteTimeout, 60*time.Second)
	setDur(&c.SignatureSkew, 15*time.Minute)
	setDur(&c.TotalTimeout, time.Hour)
	setDur(&c.MaxSession, time.Hour)
	setDur(&c.DrainTimeout, 60*time.Second)
	if c.PerCallSwitch.IsZero() {
		c.PerCallSwitch = DefaultPerCallSwitch
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
