package money

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
)

// Amount is a sum of money in millionths of a yuan. It holds about ±9.2
// trillion yuan.
type Amount int64

// The units of an Amount.
const (
	Micro Amount = 1         // a millionth of a yuan
	Fen   Amount = 10_000    // a hundredth of a yuan
	Yuan  Amount = 1_000_000 // 元
)

// The largest and the smallest Amount.
const (
	Max Amount = math.MaxInt64
	Min Amount = math.MinInt64
)

// ErrOverflow says that a result does not fit an Amount.
var ErrOverflow = errors.New("money: the amount is too large: the limit is about 9.2 trillion yuan")

// Add returns a + b, or ErrOverflow.
func (a Amount) Add(b Amount) (Amount, error) {
	c := a + b
	if (c > a) != (b > 0) {
		return 0, overflow("%d + %d", int64(a), int64(b))
	}
	return c, nil
}

// Sub returns a - b, or ErrOverflow.
func (a Amount) Sub(b Amount) (Amount, error) {
	c := a - b
	if (c < a) != (b > 0) {
		return 0, overflow("%d - %d", int64(a), int64(b))
	}
	return c, nil
}

// Neg returns -a, or ErrOverflow for Min.
func (a Amount) Neg() (Amount, error) {
	if a == Min {
		return 0, overflow("-(%d)", int64(a))
	}
	return -a, nil
}

// Mul returns a times n, or ErrOverflow: the price of n units.
func (a Amount) Mul(n int64) (Amount, error) {
	hi, lo := bits.Mul64(magnitude(int64(a)), magnitude(n))
	c, ok := fromMagnitude(hi, lo, (a < 0) != (n < 0))
	if !ok {
		return 0, overflow("%d × %d", int64(a), n)
	}
	return c, nil
}

// Sum returns the sum of all amounts, or ErrOverflow. Each partial sum must
// fit as well.
func Sum(amounts ...Amount) (Amount, error) {
	var total Amount
	for _, a := range amounts {
		var err error
		if total, err = total.Add(a); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// Cmp returns -1, 0 or 1 as a is less than, equal to or more than b.
func (a Amount) Cmp(b Amount) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// String prints a in yuan with two decimals, or with up to six where they are
// needed: "12.50", "0.000012", "-3.00".
func (a Amount) String() string { return string(a.Append(nil)) }

// Append appends the text of a to dst.
func (a Amount) Append(dst []byte) []byte {
	if a < 0 {
		dst = append(dst, '-')
	}
	m := magnitude(int64(a))
	dst = strconv.AppendUint(dst, m/uint64(Yuan), 10)
	frac := strconv.AppendUint(nil, m%uint64(Yuan)+uint64(Yuan), 10)[1:] // six digits
	n := len(frac)
	for n > 2 && frac[n-1] == '0' {
		n--
	}
	dst = append(dst, '.')
	return append(dst, frac[:n]...)
}

// MarshalText writes a as String does, so that JSON carries money as text and
// no reader turns it into a floating-point number.
func (a Amount) MarshalText() ([]byte, error) { return a.Append(nil), nil }

// UnmarshalText reads what Parse reads.
func (a *Amount) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*a = v
	return nil
}

// Value gives a to a SQL database as a whole number of millionths.
func (a Amount) Value() (driver.Value, error) { return int64(a), nil }

// magnitude returns the absolute value of v; it is exact for the smallest one.
func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// fromMagnitude returns the amount with the 128-bit magnitude hi:lo.
func fromMagnitude(hi, lo uint64, negative bool) (Amount, bool) {
	switch {
	case hi != 0:
		return 0, false
	case negative && lo <= 1<<63:
		return Amount(-lo), true
	case !negative && lo < 1<<63:
		return Amount(lo), true
	default:
		return 0, false
	}
}

func overflow(format string, args ...any) error {
	return fmt.Errorf("%w: "+format+" millionths", append([]any{ErrOverflow}, args...)...)
}
