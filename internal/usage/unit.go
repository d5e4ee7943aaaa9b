package usage

import "fmt"

// Unit is a billing item: what a package is counted in (LLM-41, EXT-3).
type Unit uint8

// The billing items. Their numbers are part of the journal's format: new ones
// are added at the end, before NumUnits.
const (
	Call        Unit = iota // one counted call
	Token                   // input and output tokens together
	InputToken              // prompt tokens, cached ones included
	OutputToken             // completion tokens, reasoning included
	Image                   // images made
	Second                  // seconds of audio or video, rounded up
	Character               // UTF-8 characters of the request's input
	NumUnits
)

var unitNames = [NumUnits]string{"call", "token", "input_token", "output_token", "image", "second", "character"}

// String returns the name of u as the admin API and the metrics print it.
func (u Unit) String() string {
	if u < NumUnits {
		return unitNames[u]
	}
	return fmt.Sprintf("unit(%d)", uint8(u))
}

// ParseUnit reads the name of a billing item.
func ParseUnit(s string) (Unit, error) {
	for u, name := range unitNames {
		if s == name {
			return Unit(u), nil
		}
	}
	return 0, fmt.Errorf("unknown unit %q: use one of %v", s, unitNames)
}

// MarshalText writes the name of u.
func (u Unit) MarshalText() ([]byte, error) {
	if u >= NumUnits {
		return nil, fmt.Errorf("unknown unit %d", uint8(u))
	}
	return []byte(unitNames[u]), nil
}

// UnmarshalText reads the name of a billing item.
func (u *Unit) UnmarshalText(b []byte) error {
	v, err := ParseUnit(string(b))
	if err != nil {
		return err
	}
	*u = v
	return nil
}

// Units holds an amount for every billing item. Its zero value is "nothing".
type Units [NumUnits]int64

// IsZero reports whether every amount is zero.
func (u *Units) IsZero() bool { return *u == Units{} }

// Basis says where a record's amounts come from (design section 3).
type Basis uint8

// The bases, from the firmest to the weakest.
const (
	BasisNone      Basis = iota // nothing was measured: the call was not counted
	BasisUpstream               // the upstream's own usage, or a counted call
	BasisCounted                // the gateway counted what it relayed
	BasisEstimated              // an estimate
	BasisFloor                  // the least that is certain
	BasisRecovered              // found open in the journal after a crash
	numBases
)

var basisNames = [numBases]string{"none", "upstream", "counted", "estimated", "floor", "recovered"}

// String returns the name of b as headers and the admin API print it.
func (b Basis) String() string {
	if b < numBases {
		return basisNames[b]
	}
	return fmt.Sprintf("basis(%d)", uint8(b))
}

// ParseBasis reads the name of a basis.
func ParseBasis(s string) (Basis, error) {
	for b, name := range basisNames {
		if s == name {
			return Basis(b), nil
		}
	}
	return 0, fmt.Errorf("unknown basis %q: use one of %v", s, basisNames)
}
