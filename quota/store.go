package quota

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
)

// Store is the shared allocator of units: what a backend implements. The same
// behaviour suite (quotatest) runs over every backend.
//
// Every method is one atomic step on one subscription. All of them may be
// repeated with the same arguments without further effect, so a caller that
// did not see an answer simply asks again.
type Store interface {
	Leaser
	Granter
	Reader
	Outbox
	Witness
	// Close lets go of the store's resources. It does not close incarnations.
	Close() error
}

// Leaser is what an engine needs of a store.
type Leaser interface {
	// Sync merges what a node knows and keeps its head-room at the level it
	// asks for. It always writes: the lease's end moves.
	//
	// An implementation MUST NOT return a Granted above the one in the request
	// unless the raise survives the loss of the server that answered, as far
	// as its durability setting promises.
	Sync(ctx context.Context, req *SyncRequest) (*SyncReply, error)
	// CloseIncarnation ends an incarnation on one subscription.
	CloseIncarnation(ctx context.Context, req *CloseRequest) error
	// Watch calls recall with a subscription whenever a node somewhere could
	// not serve a call while another node holds units: whoever has idle units
	// of it returns them. It returns when ctx ends. A recall may be lost; a
	// Sync within a second makes up for it.
	Watch(ctx context.Context, recall func(subscription string)) error
}

// Granter is what the control plane needs of a store.
type Granter interface {
	// ApplyGrant makes g the definition of its lot if its version is newer than
	// the one known, and reports whether it was. A grant that does not validate
	// is refused.
	ApplyGrant(ctx context.Context, g lot.Grant) (applied bool, err error)
	// SetThresholds replaces the thresholds of one unit of a subscription, if
	// the version is newer, and evaluates them at once (ALERT-14, ALERT-23). Of
	// the version it has, it takes Told.
	SetThresholds(ctx context.Context, t Thresholds) (applied bool, err error)
	// Restore is ApplyGrant after the store lost its state: floor is what is
	// known to have been used of each bucket, and new leases stay closed for
	// one lease time, until every node has reported what it holds.
	Restore(ctx context.Context, g lot.Grant, floor []Floor, learn time.Duration) error
}

// Reader shows the state of subscriptions.
type Reader interface {
	// Read returns the balance as the store knows it. Use that a node has not
	// reported yet counts as leased.
	Read(ctx context.Context, subscription string) (lot.Balance, error)
	// Audit recomputes every sum from the counters it was made of and returns
	// what does not agree: nothing, unless the store is damaged.
	Audit(ctx context.Context, subscription string) ([]Difference, error)
	// Report returns the counters of every incarnation: what verification
	// compares with the journals.
	Report(ctx context.Context, subscription string) ([]Reported, error)
	// Subscriptions pages through the ids the store knows, in order, from the
	// first one above after.
	Subscriptions(ctx context.Context, after string, limit int) ([]string, error)
	// Tend does a subscription's housekeeping.
	Tend(ctx context.Context, req *TendRequest) error
}

// Outbox delivers crossings of thresholds at least once.
type Outbox interface {
	// Crossings returns up to limit crossings that were not acknowledged,
	// oldest first within a subscription.
	Crossings(ctx context.Context, limit int) ([]Crossing, error)
	// Ack removes crossings that were acted on. Unknown ones are ignored.
	Ack(ctx context.Context, done ...Crossing) error
}

// Incarnation is one start of one node.
type Incarnation struct {
	Node string // 1 to 64 letters, digits, dots, underscores and hyphens
	Boot uint64 // grows with every start of the node, from 1
}

// String returns the form "node@boot" that stores use as a key.
func (i Incarnation) String() string { return i.Node + "@" + strconv.FormatUint(i.Boot, 10) }

// ParseIncarnation reads the form that String writes.
func ParseIncarnation(s string) (Incarnation, error) {
	node, boot, ok := strings.Cut(s, "@")
	n, err := strconv.ParseUint(boot, 10, 53)
	i := Incarnation{Node: node, Boot: n}
	if !ok || err != nil {
		return Incarnation{}, fmt.Errorf("quota: %q is not an incarnation: want node@boot", s)
	}
	return i, i.Validate()
}

// Validate returns what is wrong with i.
func (i Incarnation) Validate() error {
	if len(i.Node) == 0 || len(i.Node) > 64 {
		return fmt.Errorf("quota: node name %q has %d characters: want 1 to 64", i.Node, len(i.Node))
	}
	for _, c := range []byte(i.Node) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("quota: node name %q has the character %q: use letters, digits, dots, underscores and hyphens", i.Node, c)
		}
	}
	if i.Boot == 0 || i.Boot >= 1<<53 {
		return fmt.Errorf("quota: boot number %d of node %s is outside 1..2^53-1", i.Boot, i.Node)
	}
	return nil
}

// Counter is what one incarnation knows of one bucket. Granted and Used never
// decrease; Returned decreases only when units that were taken back turn out
// to have been used.
type Counter struct {
	Lot      string
	From     int64 // start of the bucket's period, Unix ms
	Granted  int64 // units leased so far
	Used     int64 // of them, used
	Returned int64 // of them, given back
}

// Outstanding returns the units of c that are with the node.
func (c Counter) Outstanding() int64 { return c.Granted - c.Used - c.Returned }

// Demand is the head-room a node wants in one unit. Both levels count every
// unit outstanding with the node in buckets that are open at the instant At,
// so that asking twice grants once.
type Demand struct {
	Unit usage.Unit
	// At is the instant the lots must be open at, Unix ms. 0 means now. An
	// earlier instant serves calls admitted before a boundary (PKG-26); the
	// store takes it back to no more than its late window.
	At int64
	// Floor is what calls that wait need: it is granted while there is
	// anything left.
	Floor int64
	// Target is what the node would like to have. The store gives less as the
	// lots run dry, down to single units.
	Target int64
}

// SyncRequest is everything a node knows of one subscription.
type SyncRequest struct {
	Subscription string
	Incarnation  Incarnation
	Now          int64 // the node's clock, Unix ms: tells a jumped clock
	TTL          time.Duration
	Quarantine   time.Duration // time past its lease after which a dead node's units return
	Counters     []Counter
	Overrun      usage.Units // cumulative, of this incarnation
	Demands      []Demand
}

// SyncReply is the store's answer.
type SyncReply struct {
	Now     int64    // the store's clock, Unix ms
	Buckets []Bucket // the open ones in draw-down order (PKG-20), then others the node has counters in
	// Known tells, per unit, whether the subscription was ever granted a lot.
	Known [usage.NumUnits]bool
	// NextChange is the next instant at which a lot opens, resets or ends,
	// Unix ms; 0: none.
	NextChange int64
	Active     int  // incarnations seen lately
	Closed     bool // the incarnation is closed for good: nothing may be taken
	Learning   bool // new leases are closed while the store relearns what is out
	Skewed     bool // the node's clock is more than 5 s off
}

// Bucket is one lot in one period as one incarnation sees it.
type Bucket struct {
	Counter
	Unit        usage.Unit
	To          int64 // end of the period, Unix ms; 0: never
	Open        bool  // units may be taken now
	Overflow    bool  // an on-demand credit line
	Away        Away
	Remaining   int64 // free to be leased
	Outstanding int64 // with all nodes, this one included
}

// Away says whether a node may go on drawing on a bucket while the store is
// away (lot.Away).
type Away struct {
	Continue bool
	Seconds  int64 // after the last answer; 0: Config.AwayFor
	Credit   int64 // units of all nodes together; 0: what was left
}

// CloseRequest ends an incarnation.
type CloseRequest struct {
	Subscription string
	Incarnation  Incarnation
	// Final closes for good, by the owner of the journal: Counters' Used is
	// what the journal holds, and everything else returns. Without Final, it
	// is a reclaim of a dead node's units: a report that comes late still
	// counts, and opens the incarnation again.
	Final    bool
	Counters []Counter // Used only
	Overrun  usage.Units
}

// TendRequest asks for the housekeeping that no report causes: take back the
// leases of nodes that are dead for longer than Quarantine past their lease,
// and those of earlier incarnations of By, evaluate thresholds that time alone
// crossed, and fold what is older than Retention.
type TendRequest struct {
	Subscription string
	By           Incarnation // an incarnation whose Replay is done; zero: none
	Quarantine   time.Duration
	Retention    time.Duration
}

// Floor is the least that is known to have been used of a bucket.
type Floor struct {
	From int64 // start of the bucket's period, Unix ms
	Used int64
}

// Difference is one sum that an audit found wrong.
type Difference struct {
	Lot  string
	From int64
	What string // "used", "outstanding", "counter"
	Want int64  // recomputed
	Got  int64  // kept
}

// Reported is a counter with the incarnation it belongs to.
type Reported struct {
	Incarnation Incarnation // Node "base", Boot 0: folded ones
	Counter
	Closed bool
	Until  int64 // end of its lease, Unix ms; 0: none
}

// ThresholdKind tells how a threshold is compared.
type ThresholdKind string

// The kinds of threshold.
const (
	Percent  ThresholdKind = "percent"  // remaining*100 <= total*value (ALERT-21)
	Absolute ThresholdKind = "absolute" // remaining <= value
)

// Threshold is a level of what remains in a subscription's lots.
type Threshold struct {
	Kind  ThresholdKind `json:"kind"`
	Value int64         `json:"value"`
}

// UsedUp is the threshold of exhaustion (ALERT-24).
var UsedUp = Threshold{Kind: Absolute, Value: 0}

// Name returns the form stores and ids use, such as "percent-20".
func (t Threshold) Name() string { return string(t.Kind) + "-" + strconv.FormatInt(t.Value, 10) }

// ParseThreshold reads the form that Name writes.
func ParseThreshold(s string) (Threshold, error) {
	kind, value, ok := strings.Cut(s, "-")
	n, err := strconv.ParseInt(value, 10, 64)
	t := Threshold{Kind: ThresholdKind(kind), Value: n}
	if !ok || err != nil {
		return Threshold{}, fmt.Errorf("quota: %q is not a threshold: want percent-N or absolute-N", s)
	}
	return t, t.Validate()
}

// Validate returns what is wrong with t.
func (t Threshold) Validate() error {
	switch t.Kind {
	case Percent:
		if t.Value < 1 || t.Value > 99 {
			return fmt.Errorf("quota: threshold of %d percent is outside 1..99", t.Value)
		}
	case Absolute:
		if t.Value < 0 || t.Value > lot.MaxAmount {
			return fmt.Errorf("quota: threshold of %d units is outside 0..2^53-1", t.Value)
		}
	default:
		return fmt.Errorf("quota: unknown kind of threshold %q: use percent or absolute", t.Kind)
	}
	return nil
}

// Thresholds are the levels watched on one unit of a subscription. They are
// compared with the sum of what remains in its open, non-resettable packages,
// and with the sum of their totals (ALERT-1, ALERT-13).
type Thresholds struct {
	Subscription string
	Unit         usage.Unit
	Version      int64 // from 1
	Levels       []Threshold
	// Told is the newest crossing of each level that its keeper has. A store
	// that knows less of a level, because it was emptied or put back, goes on
	// from there, so that no new crossing gets an id that was used.
	Told []Told
}

// Told is a crossing that was delivered.
type Told struct {
	Threshold
	Arm int64 // from 1
	// Rearmed says that the level may have been armed again since: a store that
	// does not know tells the crossing again, under the next id, where without
	// it what remains has to rise above the level first.
	Rearmed bool
}

// Validate returns what is wrong with t.
func (t *Thresholds) Validate() error {
	if t.Subscription == "" || t.Unit >= usage.NumUnits || t.Version < 1 {
		return fmt.Errorf("quota: thresholds of %q unit %s version %d: want a subscription, a known unit and a version from 1", t.Subscription, t.Unit, t.Version)
	}
	for _, l := range t.Levels {
		if err := l.Validate(); err != nil {
			return err
		}
	}
	for _, c := range t.Told {
		if err := c.Validate(); err != nil {
			return err
		}
		if c.Arm < 1 || c.Arm >= lot.MaxAmount {
			return fmt.Errorf("quota: threshold %s of %s: arm %d is outside 1..2^53-2", c.Name(), t.Subscription, c.Arm)
		}
	}
	return nil
}

// Crossing says that what remains reached a threshold. It is recorded in the
// atomic step that caused it and has one id however often it is delivered; a
// threshold is armed again only when what remains rises above it (ALERT-20).
type Crossing struct {
	ID           string     `json:"id"` // subscription/unit/threshold/arm
	Subscription string     `json:"subscription"`
	Unit         usage.Unit `json:"unit"`
	Threshold    Threshold  `json:"threshold"`
	Arm          int64      `json:"arm"` // how often it was armed, from 1
	Remaining    int64      `json:"remaining"`
	Total        int64      `json:"total"`
	At           time.Time  `json:"at"` // the store's clock
}
