package billing

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/usage"
)

// SpecState says whether a spec can be bought.
type SpecState string

// The states of a spec.
const (
	SpecOnSale     SpecState = "on_sale"
	SpecWithdrawn  SpecState = "withdrawn"
	SpecSuperseded SpecState = "superseded" // a newer version of the series exists
)

// Quota is what one purchased package holds of one unit.
type Quota struct {
	Unit usage.Unit `json:"unit"`
	// Amount is per reset period where there is one, otherwise for the whole
	// validity. For an on-demand spec it is the credit in units, 0 for the
	// default.
	Amount int64 `json:"amount"`
}

// SpecInput describes a spec to be made: what is sold, for how much.
type SpecInput struct {
	Product string // id
	Seller  string // account that the price goes to
	Name    string

	Mode   directory.Mode
	Quotas []Quota // one for each billing item, at least one

	Price    money.Amount // for a quantity of one; 0 makes a zero-price package (PKG-8)
	Validity Validity     // from the purchase on
	Reset    lot.Cycle    // PKG-6
	Zone     string       // IANA zone of months and resets; empty: Asia/Shanghai

	// PurchaseLimit is how many of the spec, all its versions together, one
	// account may ever buy (LIMIT-3); 0: no limit.
	PurchaseLimit int64

	// StoreAway is what gateways do with its packages while the quota store is
	// away. By default a package stops with the leases, unless
	// Options.StoreAway says otherwise, and on-demand use goes on.
	StoreAway lot.Away

	Actor string // who makes it
}

// Spec is one version of something sold. A spec never changes but for its
// state: an edit makes a new version with an id of its own, so that an order
// always shows what was bought.
type Spec struct {
	ID      string
	Series  string // id of the first version
	Version int64  // from 1
	SpecInput
	State   SpecState
	Created time.Time
}

// ZeroPrice reports whether s is free, which makes its lots be used first
// (PKG-20) and keeps it out of automatic repurchase (PKG-8, REPO-3).
func (s *Spec) ZeroPrice() bool { return s.Price == 0 && s.Mode != directory.ModeOnDemand }

// Units returns the billing items of s in their order.
func (s *SpecInput) Units() []usage.Unit {
	units := make([]usage.Unit, len(s.Quotas))
	for i, q := range s.Quotas {
		units[i] = q.Unit
	}
	slices.Sort(units)
	return units
}

// Limits of a spec.
const (
	maxName          = 200
	maxPurchaseLimit = 1_000_000
	maxPrice         = 1_000_000_000 * money.Yuan
)

// Validate returns every fault of s as an ErrInvalid.
func (s *SpecInput) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if s.Product == "" {
		fault("product is empty: give the product's id")
	}
	if s.Seller == "" {
		fault("seller is empty: give the account of the product's seller")
	}
	if n := len(s.Name); n == 0 || n > maxName || strings.TrimSpace(s.Name) != s.Name {
		fault("name %q: give 1..%d bytes without spaces at the ends", s.Name, maxName)
	}
	if s.Price < 0 || s.Price > maxPrice {
		fault("price %s: give 0..%s", s.Price, maxPrice)
	}
	if s.PurchaseLimit < 0 || s.PurchaseLimit > maxPurchaseLimit {
		fault("purchase limit %d: give 1..%d, or 0 for none", s.PurchaseLimit, int64(maxPurchaseLimit))
	}
	if err := s.Validity.Validate(); err != nil {
		faults = append(faults, err)
	}
	if err := s.StoreAway.Validate(); err != nil {
		faults = append(faults, err)
	}
	if _, err := loadZone(s.Zone); err != nil {
		faults = append(faults, err)
	}
	switch s.Reset {
	case lot.Never, lot.Hour, lot.Day, lot.Week, lot.Month, lot.Year:
	default:
		fault("reset cycle %q: give hour, day, week, month, year or none", s.Reset)
	}
	faults = append(faults, s.quotaFaults()...)
	faults = append(faults, s.modeFaults()...)
	return invalid(faults)
}

func (s *SpecInput) quotaFaults() []error {
	if len(s.Quotas) == 0 {
		return []error{errors.New("quotas are empty: give the amount of at least one unit")}
	}
	least := int64(1)
	if s.Mode == directory.ModeOnDemand {
		least = 0
	}
	var faults []error
	seen := map[usage.Unit]bool{}
	for _, q := range s.Quotas {
		switch {
		case q.Unit >= usage.NumUnits:
			faults = append(faults, fmt.Errorf("quota of an unknown unit %d", q.Unit))
		case seen[q.Unit]:
			faults = append(faults, fmt.Errorf("quota of %s is given twice", q.Unit))
		case q.Amount < least || q.Amount > lot.MaxAmount:
			faults = append(faults, fmt.Errorf("quota of %d %s: give %d..%d", q.Amount, q.Unit, least, int64(lot.MaxAmount)))
		}
		seen[q.Unit] = true
	}
	if seen[usage.Token] && (seen[usage.InputToken] || seen[usage.OutputToken]) {
		faults = append(faults, errors.New("quota of token beside input_token or output_token: a call would be charged for the same tokens twice, so give one or the other"))
	}
	return faults
}

// modeFaults checks what only some billing modes allow.
func (s *SpecInput) modeFaults() []error {
	var faults []error
	switch s.Mode {
	case directory.ModePerCall:
		if len(s.Quotas) != 1 || s.Quotas[0].Unit != usage.Call {
			faults = append(faults, errors.New("mode per_call counts calls only: give one quota of unit call, or use used_up_stop"))
		}
	case directory.ModeOnDemand:
		if s.Price != 0 {
			faults = append(faults, errors.New("mode on_demand is paid by use: opening it has no price"))
		}
		if s.Reset != lot.Never || !s.Validity.IsZero() {
			faults = append(faults, errors.New("mode on_demand has neither validity nor reset cycle"))
		}
	case directory.ModeOnDemandPackage, directory.ModeUsedUpStop:
	default:
		faults = append(faults, fmt.Errorf("mode %q: give per_call, on_demand, on_demand_package or used_up_stop", s.Mode))
	}
	return faults
}

// family names the modes whose packages share a subscription: they are counted
// by the same rule and stop, or flow over, in the same way. On-demand packages
// stack on the on-demand service they need (PKG-2, PKG-3).
func family(m directory.Mode) string {
	if m == directory.ModeOnDemandPackage {
		return string(directory.ModeOnDemand)
	}
	return string(m)
}

// unitKey is the text by which unit sets are told apart.
func unitKey(units []usage.Unit) string {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.String()
	}
	return strings.Join(names, ",")
}

// parseUnitKey is the inverse of unitKey.
func parseUnitKey(key string) ([]usage.Unit, error) {
	var units []usage.Unit
	for name := range strings.SplitSeq(key, ",") {
		u, err := usage.ParseUnit(name)
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	return units, nil
}
