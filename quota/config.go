package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config are the settings of an engine. Only Incarnation is required; every
// other zero value means its default.
type Config struct {
	// Incarnation is this start of this node. The journal keeps both parts.
	Incarnation Incarnation

	// TTL is how long a lease lasts after the last report that the store
	// answered; default 30s. Longer rides out longer absences of the store and
	// delays the return of a dead node's units.
	TTL time.Duration

	// Margin is how long before its end, by this node's monotonic clock, a
	// lease is no longer used; default 5 % of TTL, at least 500ms.
	Margin time.Duration

	// TailWait is how long a call that finds nothing left waits for units that
	// other nodes may return, before it is refused; default 50ms.
	TailWait time.Duration

	// AnswerWait is the longest time a call that no lease covers waits for the
	// store's answer; default 1s. A store that does not answer at all costs a
	// call less: once an exchange has taken a quarter of this time, further
	// calls do not wait for it.
	AnswerWait time.Duration

	// SyncTimeout ends one exchange with the store; default 2s. It bounds the
	// work behind the calls.
	SyncTimeout time.Duration

	// FlushEvery is how long use may stay unreported; default 1s. It is also
	// the delay of alerts, and each busy subscription costs one command per
	// node in this time.
	FlushEvery time.Duration

	// IdleAfter is how long a lease may lie unused before it is given back;
	// default 5s.
	IdleAfter time.Duration

	// LeaseSpan is how much time's use a lease should cover at the present
	// rate; default 30s, which rides out a failover.
	LeaseSpan time.Duration

	// MinLease is the head-room of a subscription whose rate is not known yet,
	// in units; default 16.
	MinLease int64

	// EmptyFor is how long a refusal is repeated without asking the store
	// again; default 25ms. It bounds what a storm of refused calls costs the
	// store, and delays service after a purchase by as much.
	EmptyFor time.Duration

	// Quarantine is how long the units of a dead node stay locked after its
	// lease ended, waiting for its journal to be replayed; default 10m,
	// negative: none. With less, units come back sooner, and use of them that
	// was journalled and not reported becomes overrun.
	Quarantine time.Duration

	// AwayFor is how long calls may draw on a lot that goes on while the store
	// is away, where the lot does not say itself: a credit line does so by
	// default, a package when it was sold like that (lot.Away). Default 10m,
	// negative: not at all. They are bounded by this node's share of the lot's
	// credit and of what was left.
	AwayFor time.Duration

	// TendEvery is the pause between two rounds of housekeeping; default 30s,
	// negative: none.
	TendEvery time.Duration

	// Retention is how long closed incarnations and ended periods are kept
	// apart before they are folded into one row; default 192h. It must be
	// longer than any journal is kept.
	Retention time.Duration

	// Whole, when set, is asked before a call is told that nothing is left:
	// whether the store still has all it was told (see Witness). It may ask
	// the store, once for each refusal that is not repeated from memory. When
	// it says no, the call is refused with ErrUnavailable instead.
	Whole func(ctx context.Context) bool

	// Now is the wall clock; default time.Now.
	Now func() time.Time

	// Mono is the monotonic clock that leases, pauses and refusals go by: the
	// time since some instant. It never goes back, and setting the wall clock
	// does not move it. Default: the machine's; where Now is set and Mono is not,
	// the time by Now, for simulations in which both are one.
	Mono func() time.Duration

	// Log takes what happens in the background; default: nothing.
	Log *slog.Logger
}

// Validate returns every fault of c, joined.
func (c *Config) Validate() error {
	var errs []error
	if err := c.Incarnation.Validate(); err != nil {
		errs = append(errs, err)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{
		{"ttl", c.TTL},
		{"margin", c.Margin},
		{"tail_wait", c.TailWait},
		{"answer_wait", c.AnswerWait},
		{"sync_timeout", c.SyncTimeout},
		{"flush_every", c.FlushEvery},
		{"idle_after", c.IdleAfter},
		{"lease_span", c.LeaseSpan},
		{"empty_for", c.EmptyFor},
		{"retention", c.Retention},
	} {
		if d.v < 0 {
			errs = append(errs, fmt.Errorf("quota: %s %s is negative", d.name, d.v))
		}
	}
	if c.MinLease < 0 {
		errs = append(errs, fmt.Errorf("quota: min_lease %d is negative", c.MinLease))
	}
	d := c.withDefaults()
	if d.Margin >= d.TTL {
		errs = append(errs, fmt.Errorf("quota: margin %s leaves nothing of ttl %s: raise ttl or lower margin", d.Margin, d.TTL))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		switch {
		case *d == 0:
			*d = v
		case *d < 0:
			*d = 0
		}
	}
	def(&c.TTL, 30*time.Second)
	def(&c.Margin, max(c.TTL/20, 500*time.Millisecond))
	def(&c.TailWait, 50*time.Millisecond)
	def(&c.AnswerWait, time.Second)
	def(&c.SyncTimeout, 2*time.Second)
	def(&c.FlushEvery, time.Second)
	def(&c.IdleAfter, 5*time.Second)
	def(&c.LeaseSpan, 30*time.Second)
	def(&c.EmptyFor, 25*time.Millisecond)
	def(&c.Quarantine, 10*time.Minute)
	def(&c.AwayFor, 10*time.Minute)
	def(&c.TendEvery, 30*time.Second)
	def(&c.Retention, 8*24*time.Hour)
	if c.MinLease == 0 {
		c.MinLease = 16
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}
