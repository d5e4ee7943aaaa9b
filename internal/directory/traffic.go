package directory

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Traffic says how a product's calls are spread over its upstreams, bounded in
// time and tried again. A zero field takes its default, so the zero value is
// what most products want. Times are whole milliseconds.
//
// The tags are those of the admin API, which takes and shows it as it stands.
type Traffic struct {
	Timeouts TrafficTimeouts `json:"timeouts,omitzero" required:"false" doc:"Limits of one call in time."`
	Retry    TrafficRetry    `json:"retry,omitzero" required:"false" doc:"When a call is sent again. Only while nothing of an answer went to the client; a call that was sent twice is charged once."`
	Breaker  TrafficBreaker  `json:"breaker,omitzero" required:"false" doc:"Keeps calls from an upstream that fails in a row. Failures are answers of 500 and above (not 501, 505), timeouts and broken connections; not 4xx, nor a client that left."`
	Outlier  TrafficOutlier  `json:"outlier,omitzero" required:"false" doc:"Rests an upstream that fails a share of its calls, while the product has others."`
	Check    TrafficCheck    `json:"check,omitzero" required:"false" doc:"Asks each upstream whether it is healthy. Off without a path."`
	Affinity TrafficAffinity `json:"affinity,omitzero" required:"false" doc:"Sends calls that belong together to the same upstream. Off without a kind."`
	Pool     TrafficPool     `json:"pool,omitzero" required:"false" doc:"Connections to each upstream."`
	// MapModelBack writes the name the caller used over the upstream's own in
	// answers.
	MapModelBack bool `json:"map_model_back,omitzero" required:"false" doc:"LLM products: answers name the model as the caller did, not as the upstream does. Default: they stand as they came."`
}

// TrafficTimeouts bound one call. A limit that is passed before an answer is a
// 504; after it the answer breaks off.
type TrafficTimeouts struct {
	Connect   int64 `json:"connect_ms,omitzero" required:"false" minimum:"0" maximum:"60000" doc:"Connecting, TLS handshake included. Default: the gateway's connect_timeout, 5000."`
	FirstByte int64 `json:"first_byte_ms,omitzero" required:"false" minimum:"0" maximum:"3600000" doc:"From the end of the request to the answer's header. Default: the gateway's first_byte_timeout, 300000."`
	Idle      int64 `json:"idle_ms,omitzero" required:"false" minimum:"0" maximum:"3600000" doc:"Between two reads of an answer. Default: the gateway's stream_idle_timeout, 60000."`
	Write     int64 `json:"write_ms,omitzero" required:"false" minimum:"0" maximum:"3600000" doc:"For an upstream that does not take the request. Default 60000."`
	Total     int64 `json:"total_ms,omitzero" required:"false" minimum:"0" maximum:"86400000" doc:"The whole call, attempts and answer together. Default: the gateway's total_timeout, 3600000."`
}

// TrafficRetry says when a call is sent again.
type TrafficRetry struct {
	Attempts      int     `json:"attempts,omitzero" required:"false" minimum:"0" maximum:"10" doc:"Most attempts of a call, the first included; 1 never tries again. Default 3."`
	Statuses      []int   `json:"statuses,omitempty" maxItems:"16" doc:"Answers after which a call that may be repeated is sent again, such as 429, 502, 503, 504. Default: none; the caller gets them."`
	Post          string  `json:"post,omitempty" enum:"never,with_key,always" doc:"Whether POST and PATCH may be repeated after they were sent: never (default), with_key (where the caller sent Idempotency-Key), always. Whatever it says, a call that could not be sent goes to another upstream."`
	Timeouts      bool    `json:"timeouts,omitzero" required:"false" doc:"Send a call again that got no answer in time. Default false: the upstream may still be working on it."`
	Backoff       int64   `json:"backoff_ms,omitzero" required:"false" minimum:"0" maximum:"60000" doc:"Wait before the second attempt, doubled with each, a random part of it. Default 25."`
	MaxBackoff    int64   `json:"max_backoff_ms,omitzero" required:"false" minimum:"0" maximum:"60000" doc:"Longest such wait. Default 1000."`
	MaxRetryAfter int64   `json:"max_retry_after_ms,omitzero" required:"false" minimum:"0" maximum:"60000" doc:"Longest Retry-After that is waited for; after a longer one another upstream is asked, and where there is none the caller gets the answer. Default 2000."`
	Budget        float64 `json:"budget_percent,omitzero" required:"false" minimum:"0" maximum:"100" doc:"Most retries in percent of the product's calls on this gateway, so that retries cannot multiply an outage. Default 20."`
	BudgetMin     int     `json:"budget_min_per_second,omitzero" required:"false" minimum:"0" maximum:"10000" doc:"Retries a second that are allowed at any rate of calls. Default 10."`
}

// TrafficBreaker configures each upstream's breaker.
type TrafficBreaker struct {
	Off      bool  `json:"off,omitzero" required:"false" doc:"Do without a breaker."`
	Failures int   `json:"failures,omitzero" required:"false" minimum:"0" maximum:"1000" doc:"Failures in a row that open it. Default 5."`
	Open     int64 `json:"open_ms,omitzero" required:"false" minimum:"0" maximum:"600000" doc:"How long it stays open before trial calls. Default 1000."`
	Trials   int   `json:"trials,omitzero" required:"false" minimum:"0" maximum:"100" doc:"Trial calls that must succeed for it to close. Default 1."`
}

// TrafficOutlier configures passive health.
type TrafficOutlier struct {
	Off        bool  `json:"off,omitzero" required:"false" doc:"Do not rest upstreams that fail a share of their calls."`
	Share      int   `json:"share_percent,omitzero" required:"false" minimum:"0" maximum:"100" doc:"Share of failed calls that rests an upstream. Default 50."`
	MinCalls   int   `json:"min_calls,omitzero" required:"false" minimum:"0" maximum:"100000" doc:"Calls within the window that it takes to judge. Default 20."`
	Window     int64 `json:"window_ms,omitzero" required:"false" minimum:"0" maximum:"600000" doc:"Default 10000."`
	Rest       int64 `json:"rest_ms,omitzero" required:"false" minimum:"0" maximum:"600000" doc:"First rest, doubled with each that follows soon. Default 10000."`
	MaxRest    int64 `json:"max_rest_ms,omitzero" required:"false" minimum:"0" maximum:"3600000" doc:"Longest rest. Default 120000."`
	MaxEjected int   `json:"max_ejected_percent,omitzero" required:"false" minimum:"0" maximum:"100" doc:"Most upstreams at rest, in percent; never all. Default 50."`
}

// TrafficCheck configures active health checks.
type TrafficCheck struct {
	Path      string `json:"path,omitempty" maxLength:"512" doc:"Asked by GET below the upstream's url, with the upstream's headers. Empty: no checks."`
	Interval  int64  `json:"interval_ms,omitzero" required:"false" minimum:"0" maximum:"3600000" doc:"Default 5000, at least 100."`
	Timeout   int64  `json:"timeout_ms,omitzero" required:"false" minimum:"0" maximum:"60000" doc:"Default 2000."`
	Healthy   int    `json:"healthy,omitzero" required:"false" minimum:"0" maximum:"100" doc:"Good answers in a row that bring an upstream back. Default 2."`
	Unhealthy int    `json:"unhealthy,omitzero" required:"false" minimum:"0" maximum:"100" doc:"Bad ones in a row that take it out. Default 3."`
	Statuses  []int  `json:"statuses,omitempty" maxItems:"16" doc:"Good answers. Default: 200 to 399."`
}

// Kinds of affinity.
const (
	AffinityHeader     = "header"
	AffinityCredential = "credential"
	AffinityUser       = "user"
	AffinityPrompt     = "prompt"
)

// TrafficAffinity keeps calls that belong together at one upstream.
type TrafficAffinity struct {
	By      string `json:"by,omitempty" enum:"header,credential,user,prompt" doc:"What calls that belong together share: the value of a header, the credential, the body's user (or prompt_cache_key), or the beginning of the prompt. A call without it goes anywhere."`
	Header  string `json:"header,omitempty" maxLength:"128" doc:"Header for by=header. Default X-Session-Id."`
	Prefix  int    `json:"prefix_bytes,omitzero" required:"false" minimum:"0" maximum:"65536" doc:"For by=prompt: how much of the prompt. Default 1024."`
	MaxLoad int    `json:"max_load_percent,omitzero" required:"false" minimum:"0" maximum:"1000" doc:"An upstream with more calls under way than this percentage of the average is passed over. Default 125, at least 101."`
}

// TrafficPool bounds the connections to each upstream, on each gateway.
type TrafficPool struct {
	MaxConns  int   `json:"max_connections,omitzero" required:"false" minimum:"0" maximum:"100000" doc:"Most calls under way to one upstream; further ones go to others, or get 503. Default: no limit."`
	MaxIdle   int   `json:"max_idle,omitzero" required:"false" minimum:"0" maximum:"10000" doc:"Idle connections kept. Default 512."`
	KeepAlive int64 `json:"keep_alive_ms,omitzero" required:"false" minimum:"0" maximum:"600000" doc:"How long an idle connection is kept; keep it below the upstream's own limit. Default 30000."`
	MaxAge    int64 `json:"max_age_ms,omitzero" required:"false" minimum:"0" maximum:"86400000" doc:"Age at which a connection is not used again, so that changes of DNS are followed. Default 300000."`
}

// UpstreamTLS configures TLS to one https upstream.
type UpstreamTLS struct {
	ServerName string `json:"server_name,omitempty" maxLength:"253" doc:"Name asked for (SNI) and checked in the certificate. Default: the url's host."`
	CA         string `json:"ca_pem,omitempty" maxLength:"65536" doc:"Certificates to trust, as PEM, in place of the system's."`
	SkipVerify bool   `json:"skip_verify,omitzero" required:"false" doc:"Operators only: accept any certificate. Traffic can then be read and changed on the way."`
}

// Millis is n milliseconds, or d when n is 0.
func Millis(n int64, d time.Duration) time.Duration {
	if n <= 0 {
		return d
	}
	return time.Duration(n) * time.Millisecond
}

// Or is n, or d when n is 0.
func Or(n, d int) int {
	if n <= 0 {
		return d
	}
	return n
}

// Fault is something wrong with a setting.
type Fault struct{ Field, Text string }

// Faults lists what is wrong with t. Field is the path below the traffic
// object, such as "retry.statuses[0]".
func (t *Traffic) Faults() []Fault {
	var out []Fault
	between := func(field string, n, low, high int64) {
		if n != 0 && (n < low || n > high) {
			out = append(out, Fault{field, fmt.Sprintf("must be 0 for the default, or from %d to %d", low, high)})
		}
	}
	statuses := func(field string, list []int, low, high int) {
		if len(list) > 16 {
			out = append(out, Fault{field, "must hold at most 16 statuses"})
		}
		for i, s := range list {
			if s < low || s > high || slices.Contains(list[:i], s) {
				out = append(out, Fault{fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("must be a status from %d to %d, each once", low, high)})
			}
		}
	}
	oneOf := func(field, v string, allowed ...string) {
		if v != "" && !slices.Contains(allowed, v) {
			out = append(out, Fault{field, "must be one of " + strings.Join(allowed, ", ")})
		}
	}
	const minute, hour = 60_000, 3_600_000
	between("timeouts.connect_ms", t.Timeouts.Connect, 1, minute)
	between("timeouts.first_byte_ms", t.Timeouts.FirstByte, 1, hour)
	between("timeouts.idle_ms", t.Timeouts.Idle, 1, hour)
	between("timeouts.write_ms", t.Timeouts.Write, 1, hour)
	between("timeouts.total_ms", t.Timeouts.Total, 1, 24*hour)
	between("retry.attempts", int64(t.Retry.Attempts), 1, 10)
	statuses("retry.statuses", t.Retry.Statuses, 400, 599)
	oneOf("retry.post", t.Retry.Post, "never", "with_key", "always")
	between("retry.backoff_ms", t.Retry.Backoff, 1, minute)
	between("retry.max_backoff_ms", t.Retry.MaxBackoff, 1, minute)
	between("retry.max_retry_after_ms", t.Retry.MaxRetryAfter, 1, minute)
	if b := t.Retry.Budget; !(b >= 0 && b <= 100) {
		out = append(out, Fault{"retry.budget_percent", "must be from 0 to 100"})
	}
	between("retry.budget_min_per_second", int64(t.Retry.BudgetMin), 1, 10_000)
	between("breaker.failures", int64(t.Breaker.Failures), 1, 1000)
	between("breaker.open_ms", t.Breaker.Open, 1, 600_000)
	between("breaker.trials", int64(t.Breaker.Trials), 1, 100)
	between("outlier.share_percent", int64(t.Outlier.Share), 1, 100)
	between("outlier.min_calls", int64(t.Outlier.MinCalls), 1, 100_000)
	between("outlier.window_ms", t.Outlier.Window, 1, 600_000)
	between("outlier.rest_ms", t.Outlier.Rest, 1, 600_000)
	between("outlier.max_rest_ms", t.Outlier.MaxRest, 1, hour)
	between("outlier.max_ejected_percent", int64(t.Outlier.MaxEjected), 1, 100)
	if p := t.Check.Path; p != "" && (p[0] != '/' || len(p) > 512 || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' })) {
		out = append(out, Fault{"check.path", "must be a path such as /health, without spaces and fragment"})
	}
	between("check.interval_ms", t.Check.Interval, 100, hour)
	between("check.timeout_ms", t.Check.Timeout, 1, minute)
	between("check.healthy", int64(t.Check.Healthy), 1, 100)
	between("check.unhealthy", int64(t.Check.Unhealthy), 1, 100)
	statuses("check.statuses", t.Check.Statuses, 200, 599)
	oneOf("affinity.by", t.Affinity.By, AffinityHeader, AffinityCredential, AffinityUser, AffinityPrompt)
	if h := t.Affinity.Header; h != "" && (len(h) > 128 || strings.ContainsFunc(h, func(r rune) bool {
		return !(r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	})) {
		out = append(out, Fault{"affinity.header", "must be a header name such as X-Session-Id"})
	}
	between("affinity.prefix_bytes", int64(t.Affinity.Prefix), 1, 65_536)
	between("affinity.max_load_percent", int64(t.Affinity.MaxLoad), 101, 1000)
	between("pool.max_connections", int64(t.Pool.MaxConns), 1, 100_000)
	between("pool.max_idle", int64(t.Pool.MaxIdle), 1, 10_000)
	between("pool.keep_alive_ms", t.Pool.KeepAlive, 1, 600_000)
	between("pool.max_age_ms", t.Pool.MaxAge, 1, 24*hour)
	return out
}

// errCA says that a CA text holds no certificate.
var errCA = errors.New("must be one or more certificates in PEM form")

// Roots returns the certificates to trust, nil for the system's.
func (t *UpstreamTLS) Roots() (*x509.CertPool, error) {
	if t.CA == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(t.CA)) {
		return nil, errCA
	}
	return pool, nil
}
