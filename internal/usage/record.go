package usage

import (
	"time"

	"tollgate/internal/ids"
)

// Auth is the kind of credential a call was made with (AUTH-1, KEY-1).
type Auth uint8

// The kinds of credential.
const (
	AuthNone Auth = iota
	AuthSignature
	AuthAppCode
	AuthAPIKey
	numAuths
)

var authNames = [numAuths]string{"none", "signature", "appcode", "apikey"}

// String returns the name of a as metrics and the admin API print it.
func (a Auth) String() string {
	if a < numAuths {
		return authNames[a]
	}
	return "unknown"
}

// Rule is the metering rule a call was judged by.
type Rule uint8

// The metering rules of section 2.4 of the marketplace rules.
const (
	RuleNone Rule = iota
	Meter1        // METER-1: any status, per-call packages before the switch
	Meter2        // METER-2: [200, 300), per-call packages from the switch on
	Meter3        // METER-3: [200, 300), on-demand and on-demand packages
)

// String returns the id of the rule.
func (r Rule) String() string {
	switch r {
	case Meter1:
		return "METER-1"
	case Meter2:
		return "METER-2"
	case Meter3:
		return "METER-3"
	default:
		return ""
	}
}

// Charge is what one lot paid of a call.
type Charge struct {
	Lot    string `json:"lot"`           // lot id, a ULID
	Unit   Unit   `json:"unit"`          // billing item
	Amount int64  `json:"amount"`        // units, at least 1
	Bucket int64  `json:"bucket_starts"` // Unix ms start of the lot's period the units came from (PKG-24)
}

// Flags of a record.
type Flags uint16

// The flags (METER-13).
const (
	Counted     Flags = 1 << iota // the call was charged
	Streamed                      // answered as a stream
	Incomplete                    // the answer broke off after it had begun (METER-10, LLM-38)
	Debug                         // made by "debug API" (API-11)
	ClientGone                    // the client left before the end
	Provisional                   // written while the call still runs; superseded by a later record of the same request id
	Unbilled                      // the token units are the gateway's own count: told, and not charged (LLM-37)
)

// Record is what is kept of one call (METER-13). One is written to the node's
// journal for each counted call before the last byte of its answer leaves, and
// the package counters and the usage rows are both derived from it. It holds
// sizes and counts, never content (NFR-6).
type Record struct {
	ID       ids.Request
	Time     time.Time // admission, UTC, whole milliseconds
	Finished time.Time // settlement, UTC, whole milliseconds

	Node         string // the gateway node that served the call
	Account      string // buyer
	Subscription string
	Product      string
	API          string // route family: "chat.completions", "embeddings", …, or the published path of an API product
	Model        string // as the client named it; empty for API products
	Credential   string // id of the API key, application key or AppCode
	Application  string // id of the application; empty for API keys
	Region       string
	Auth         Auth
	Rule         Rule
	Basis        Basis
	Flags        Flags
	Status       int    // status sent to the client
	Reason       string // rejection or failure reason of the error table; empty when none

	// Boot is the start of Node that the charges belong to, where a later start
	// wrote the record: of a call found open after a crash. Otherwise 0.
	Boot uint64

	Units     Units // what the call used, measured
	Cached    int64 // cached prompt tokens, a subset of Units[InputToken]
	Reasoning int64 // reasoning tokens, a subset of Units[OutputToken]
	Charges   []Charge
	Overrun   Units // used beyond what any lot could give

	Total     time.Duration // from the first byte of the request to the last of the answer
	Upstream  time.Duration // from sending the request upstream to the last byte of its answer
	FirstByte time.Duration // from the first byte of the request to the first of the answer
	BytesIn   int64         // request body
	BytesOut  int64         // answer body
	// Attempts is how many upstreams were asked, or one how often, until the
	// answer that counts; a call is charged once whatever it is. 0: none, or not
	// known (a record of an earlier version).
	Attempts int64
}

// Has reports whether all of f are set.
func (r *Record) Has(f Flags) bool { return r.Flags&f == f }

// Billable returns the units of u that the call is to be charged.
func (r *Record) Billable(u Unit) int64 {
	if r.Flags&Unbilled != 0 && (u == Token || u == InputToken || u == OutputToken) {
		return 0
	}
	return r.Units[u]
}

// Charged returns the units of u that lots paid for.
func (r *Record) Charged(u Unit) int64 {
	var n int64
	for i := range r.Charges {
		if r.Charges[i].Unit == u {
			n += r.Charges[i].Amount
		}
	}
	return n
}
