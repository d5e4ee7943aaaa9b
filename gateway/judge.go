package gateway

import (
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// judge decides whether an answer of the upstream counts, and by which rule.
// status is the upstream's final status, at the instant the call completed
// (METER-4). Answers the gateway makes itself never come here (GWERR-3).
func judge(mode directory.Mode, status int, completed, perCallSwitch time.Time) (bool, usage.Rule) {
	success := status >= 200 && status < 300 // METER-5: half-open
	if mode != directory.ModePerCall {
		return success, usage.Meter3
	}
	if completed.Before(perCallSwitch) {
		return true, usage.Meter1
	}
	return success, usage.Meter2
}
