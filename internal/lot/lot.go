package lot

import (
	"errors"
	"fmt"
	"time"

	"tollgate/internal/usage"
)

// Grant is one lot. The control plane is its truth: it sends the whole grant
// with a higher Version to change it, and a store applies a version at most
// once and never an older one.
type Grant struct {
	ID           string     `json:"id"` // ULID; order of creation is the last tie-break of PKG-20
	Subscription string     `json:"subscription"`
	Unit         usage.Unit `json:"unit"`
	Amount       int64      `json:"amount"` // units in each period, 0..MaxAmount
	Effective    time.Time  `json:"effective"`
	Expires      time.Time  `json:"expires"` // zero: never
	Reset        Cycle      `json:"reset,omitempty"`
	Zone         string     `json:"zone,omitempty"` // IANA zone of calendar resets; empty: Asia/Shanghai (CONV-4)
	ZeroPrice    bool       `json:"zero_price,omitempty"`
	Overflow     bool       `json:"overflow,omitempty"` // an on-demand credit line: used last, after every package
	Away         Away       `json:"away,omitzero"`      // what nodes do with it while the quota store is away
	Version      int64      `json:"version"`            // from 1
	Void         bool       `json:"void,omitempty"`     // withdrawn: nothing more is granted from it
}

// Cycle is how often a lot is filled up again (PKG-6, PKG-24).
type Cycle string

// The reset cycles. They run in whole periods from the effective instant.
const (
	Never Cycle = ""
	Hour  Cycle = "hour"
	Day   Cycle = "day"
	Week  Cycle = "week"
	Month Cycle = "month"
	Year  Cycle = "year"
)

// MaxAmount is the largest amount of a lot: 2^53-1, above which a Lua number
// is no longer exact.
const MaxAmount = 1<<53 - 1

// Validate returns every fault of g, joined.
func (g *Grant) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if g.ID == "" {
		fault("lot: id is empty")
	}
	if g.Subscription == "" {
		fault("lot %s: subscription is empty", g.ID)
	}
	if g.Unit >= usage.NumUnits {
		fault("lot %s: unknown unit %d", g.ID, g.Unit)
	}
	if g.Amount < 0 || g.Amount > MaxAmount {
		fault("lot %s: amount %d is outside 0..%d", g.ID, g.Amount, int64(MaxAmount))
	}
	if g.Effective.IsZero() {
		fault("lot %s: effective instant is not set", g.ID)
	}
	if !g.Expires.IsZero() && !g.Expires.After(g.Effective) {
		fault("lot %s: expires %s, not after it becomes effective %s", g.ID, g.Expires, g.Effective)
	}
	switch g.Reset {
	case Never, Hour, Day, Week, Month, Year:
	default:
		fault("lot %s: unknown reset cycle %q: use hour, day, week, month, year or none", g.ID, g.Reset)
	}
	if err := g.Away.Validate(); err != nil {
		fault("lot %s: %w", g.ID, err)
	}
	if g.Version < 1 {
		fault("lot %s: version %d is below 1", g.ID, g.Version)
	}
	return errors.Join(errs...)
}

// Balance is the state of one subscription's quota at one instant.
// For every lot: Granted = Remaining + Leased + Used + Lapsed.
type Balance struct {
	Subscription string    `json:"subscription"`
	AsOf         time.Time `json:"as_of"`
	Lots         []State   `json:"lots"`
	// Overrun is what was used beyond any lot, by unit; never negative.
	Overrun usage.Units `json:"-"`
}

// State is one lot within a Balance.
type State struct {
	Grant
	State      string    `json:"state"` // pending, active, exhausted, expired, void (PKG-25)
	PeriodFrom time.Time `json:"period_from"`
	PeriodTo   time.Time `json:"period_to"` // zero: never ends
	Granted    int64     `json:"granted"`   // over all periods that have begun
	Remaining  int64     `json:"remaining"` // free to be leased now
	Leased     int64     `json:"leased"`    // with a node, not yet used
	Used       int64     `json:"used"`      // over all periods
	Lapsed     int64     `json:"lapsed"`    // expired, reset away or voided
}
