package config

import (
	"time"

	"tollgate/internal/directory"
)

// Rule bounds the calls of one key; 0 does not limit.
type Rule struct {
	// RequestsPerSecond and RequestsPerMinute that may begin. Default 0, no limit.
	RequestsPerSecond int64 `koanf:"requests_per_second"`
	RequestsPerMinute int64 `koanf:"requests_per_minute"`
	// TokensPerMinute of LLM calls, input and output together. Default 0.
	TokensPerMinute int64 `koanf:"tokens_per_minute"`
	// Concurrency: calls at once.
	Concurrency int64 `koanf:"concurrency"`
}

// Limits are the limits that the directory's rows leave open. With a quota store
// in Redis each limit holds for all gateways together, approximately: every one
// spends a share of it, and the shares follow the demand.
type Limits struct {
	// Credential limits each API key and each application that has no limits of
	// its own. Default 100 calls at once (NFR-5).
	Credential Rule `koanf:"credential"`
	// Subscription limits each subscription. Default none.
	Subscription Rule `koanf:"subscription"`
	// Product limits all calls of a product. Default none.
	Product Rule `koanf:"product"`
	// Address limits each source address (IPv6: /64 network), before
	// authentication. Default none.
	Address Rule `koanf:"address"`
	// MaxCalls a gateway serves at once. When they run short, a credential with
	// many under way is refused before one with few. 0: no bound. Default 16384.
	MaxCalls int64 `koanf:"max_calls"`
	// MaxKeys whose counts are kept in memory, about 500 bytes each; only those
	// that called in the last two minutes are. Default 1048576.
	MaxKeys int64 `koanf:"max_keys"`
	// Exchange is how often gateways tell each other their demand. Default 1s;
	// costs one command for each limited key in use.
	Exchange time.Duration `koanf:"exchange"`
}

// Idempotency is what is kept of calls with an Idempotency-Key.
type Idempotency struct {
	// Store: memory, for repetitions that reach the same gateway; shared, in the
	// quota store's Redis, which costs two trips there for each such call; or
	// off, and the header goes upstream unread. Default memory.
	Store string `koanf:"store"`
	// Window for which an answer is replayed. Default 10m.
	Window time.Duration `koanf:"window"`
	// Lease of a shared key while its call runs. The gateway renews it, so that a
	// call may take as long as it likes; after a crash a repetition is told 409
	// until the lease ends, and then runs, and is charged, as a call of its own.
	// Default 15s; costs one command in a third of it for each such call under way.
	Lease time.Duration `koanf:"lease"`
	// MaxAnswer that is kept; calls with larger ones are not protected. Default
	// 1MiB.
	MaxAnswer Size `koanf:"max_answer"`
	// Memory of all answers kept; the oldest go first. Default 64MiB.
	Memory Size `koanf:"memory"`
}

// AccessLog is one line of JSON for each request.
type AccessLog struct {
	// File the lines go to: a path, stdout, or off. SIGHUP and SIGUSR1 open it
	// anew, after it was renamed. Default off.
	File string `koanf:"file"`
	// Buffer of lines that wait for a slow disk; beyond it lines are dropped and
	// counted, and no call waits. Default 8192.
	Buffer int64 `koanf:"buffer"`
}

// Trace sends OpenTelemetry traces.
type Trace struct {
	// Endpoint of an OTLP/HTTP receiver, as in http://127.0.0.1:4318/v1/traces.
	// Empty (default): off.
	Endpoint string `koanf:"endpoint"`
	// Sample is the part of the calls that is traced, from 0 to 1; a call whose
	// caller sampled it is always traced. Default 0.01.
	Sample float64 `koanf:"sample"`
}

func defaultLimits() Limits {
	return Limits{Credential: Rule{Concurrency: 100}, MaxCalls: 16384, MaxKeys: 1 << 20, Exchange: time.Second}
}

func defaultIdempotency() Idempotency {
	return Idempotency{Store: "memory", Window: 10 * time.Minute, Lease: 15 * time.Second, MaxAnswer: 1 << 20, Memory: 64 << 20}
}

// validateLimits adds the faults of the settings in this file.
func (c *Config) validateLimits(f *faults) {
	g := &c.Gateway
	for path, r := range map[string]Rule{
		"credential": g.Limits.Credential, "subscription": g.Limits.Subscription, "product": g.Limits.Product, "address": g.Limits.Address,
	} {
		for name, v := range map[string]int64{
			"requests_per_second": r.RequestsPerSecond, "requests_per_minute": r.RequestsPerMinute,
			"tokens_per_minute": r.TokensPerMinute, "concurrency": r.Concurrency,
		} {
			if v < 0 {
				f.add("gateway.limits."+path+"."+name, "must not be below 0; 0 does not limit")
			}
		}
	}
	if g.Limits.MaxCalls < 0 {
		f.add("gateway.limits.max_calls", "must not be below 0; 0 does not limit")
	}
	if g.Limits.Exchange < 100*time.Millisecond {
		f.add("gateway.limits.exchange", "must be at least 100ms")
	}
	if g.Idempotency.Lease < time.Second {
		f.add("gateway.idempotency.lease", "must be at least 1s")
	}
	for path, v := range map[string]int64{
		"gateway.limits.max_keys": g.Limits.MaxKeys, "gateway.header_timeout": int64(g.HeaderTimeout), "gateway.max_uri": int64(g.MaxURI),
		"gateway.idempotency.window": int64(g.Idempotency.Window), "gateway.idempotency.max_answer": int64(g.Idempotency.MaxAnswer),
		"gateway.idempotency.memory": int64(g.Idempotency.Memory), "gateway.access_log.buffer": g.AccessLog.Buffer,
	} {
		if v <= 0 {
			f.add(path, "must be above 0")
		}
	}
	for path, list := range map[string][]string{
		"gateway.trusted_proxies": g.TrustedProxies, "gateway.proxy_protocol": g.ProxyProtocol, "gateway.allow": g.Allow, "gateway.deny": g.Deny,
	} {
		for _, text := range list {
			if _, err := directory.ParseNetwork(text); err != nil {
				f.add(path, "%v", err)
			}
		}
	}
	switch g.Idempotency.Store {
	case "memory", "off":
	case "shared":
		if c.Quota.Store.value == Embedded {
			f.add("gateway.idempotency.store", "shared needs a quota.store in Redis; memory does with one gateway")
		}
	default:
		f.add("gateway.idempotency.store", "%q is not known: use memory, shared, off", g.Idempotency.Store)
	}
	if g.AccessLog.File == "" {
		f.add("gateway.access_log.file", "is empty: name a file, stdout, or off")
	}
	if s := g.Trace.Sample; s < 0 || s > 1 {
		f.add("gateway.trace.sample", "%v must be from 0 to 1", s)
	}
}
