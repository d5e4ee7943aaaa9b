package money

import (
	"errors"
	"fmt"

	"github.com/shopspring/decimal"
)

// ErrSyntax says that a text is not an amount of money.
var ErrSyntax = errors.New("money: write an amount in yuan as digits with at most six decimals, such as 12.50")

// maxText bounds what Parse looks at: a sign, 13 digits, a point, six digits,
// and room for zeros at either end.
const maxText = 64

// Parse reads an amount in yuan: an optional minus sign, digits, and optionally
// a point and digits. More than six decimals are accepted only if those beyond
// are zeros, since Parse never rounds. Exponents, plus signs, separators and
// currency signs are ErrSyntax; an amount that does not fit is ErrOverflow.
func Parse(s string) (Amount, error) {
	if !plainDecimal(s) {
		return 0, fmt.Errorf("%w: %q", ErrSyntax, clip(s))
	}
	d, err := decimal.NewFromString(s)
	if err != nil {
		return 0, fmt.Errorf("%w: %q", ErrSyntax, clip(s))
	}
	d = d.Shift(6)
	if !d.IsInteger() {
		return 0, fmt.Errorf("%w: %q has more than six", ErrSyntax, s)
	}
	i := d.BigInt()
	if !i.IsInt64() {
		return 0, fmt.Errorf("%w: %q", ErrOverflow, s)
	}
	return Amount(i.Int64()), nil
}

// MustParse is Parse for constants in code and tests: it panics on an error.
func MustParse(s string) Amount {
	a, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return a
}

// plainDecimal reports whether s is -?[0-9]+(\.[0-9]+)? and not too long. It
// keeps the exponents that the decimal library accepts, and their cost, out.
func plainDecimal(s string) bool {
	if len(s) > maxText {
		return false
	}
	if s != "" && s[0] == '-' {
		s = s[1:]
	}
	digits, point := 0, false
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' && !point && digits > 0:
			point, digits = true, 0
		default:
			return false
		}
	}
	return digits > 0
}

// clip keeps error texts short.
func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}
