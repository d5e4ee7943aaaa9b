package lot

import (
	"errors"
	"fmt"
)

// AwayPolicy says what a node does with a lot once its lease is over while the
// quota store cannot be reached.
type AwayPolicy string

// The policies. Each lot has one, also by default: a package stops, a credit
// line goes on.
const (
	AwayDefault  AwayPolicy = ""
	AwayStop     AwayPolicy = "stop"     // calls are refused as "try again", never as "used up"
	AwayContinue AwayPolicy = "continue" // calls go on for a time and up to a credit
)

// Away is a lot's policy for the time the quota store is away.
type Away struct {
	Policy AwayPolicy `json:"policy,omitempty"`
	// Seconds is how long after the store's last answer calls go on; 0: as
	// long as the node's setting says.
	Seconds int64 `json:"seconds,omitempty"`
	// Credit is how many units all nodes together may use without asking; 0:
	// what was left. It is never more than what was left at the last answer.
	Credit int64 `json:"credit,omitempty"`
}

// MaxAwaySeconds is the longest time calls may go on without the quota store:
// a week.
const MaxAwaySeconds = 7 * 24 * 60 * 60

// Validate returns every fault of a, joined.
func (a Away) Validate() error {
	var errs []error
	switch a.Policy {
	case AwayDefault, AwayStop, AwayContinue:
	default:
		errs = append(errs, fmt.Errorf("store away policy %q: give stop or continue", a.Policy))
	}
	if a.Seconds < 0 || a.Seconds > MaxAwaySeconds {
		errs = append(errs, fmt.Errorf("store away for %d seconds: give 1..%d, or 0 for the default", a.Seconds, int64(MaxAwaySeconds)))
	}
	if a.Credit < 0 || a.Credit > MaxAmount {
		errs = append(errs, fmt.Errorf("store away credit of %d units: give 1..%d, or 0 for what was left", a.Credit, int64(MaxAmount)))
	}
	if a.Policy != AwayContinue && (a.Seconds != 0 || a.Credit != 0) {
		errs = append(errs, errors.New("store away seconds and credit are of the policy continue: give that policy too"))
	}
	return errors.Join(errs...)
}

// Continues reports whether nodes may go on drawing on g while the store is
// away.
func (g *Grant) Continues() bool {
	return g.Away.Policy == AwayContinue || g.Away.Policy == AwayDefault && g.Overflow
}
