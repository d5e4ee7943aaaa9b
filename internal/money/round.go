package money

import (
	"fmt"
	"math/bits"
)

// RoundToFenHalfUp rounds a to whole fen, halves away from zero. It is the rule
// of an order line (CONV-7): the price of all its units is rounded once.
func RoundToFenHalfUp(a Amount) (Amount, error) {
	return RatioHalfUp(a, 1, int64(Fen), Fen)
}

// RoundToFenDown rounds a to whole fen towards zero, for sums paid out to a
// seller, which must not exceed what was earned.
func RoundToFenDown(a Amount) Amount { return a - a%Fen }

// RatioHalfUp returns a × num ÷ den in units of unit, halves away from zero:
// the part of a price that belongs to num of den parts. The product is kept in
// 128 bits, so that only the result can overflow. den and unit are positive.
func RatioHalfUp(a Amount, num, den int64, unit Amount) (Amount, error) {
	if den <= 0 || unit <= 0 {
		return 0, fmt.Errorf("money: ratio %d/%d in units of %d: the divisor and the unit must be positive", num, den, int64(unit))
	}
	hi, lo := bits.Mul64(magnitude(int64(a)), magnitude(num))
	if hi >= uint64(den) {
		return 0, overflow("%d × %d ÷ %d", int64(a), num, den)
	}
	quo, rem := bits.Div64(hi, lo, uint64(den))
	quo, carry := bits.Add64(quo, half(rem, uint64(den)), 0)
	hi, lo = bits.Mul64(quo, uint64(unit))
	hi += carry
	c, ok := fromMagnitude(hi, lo, (a < 0) != (num < 0))
	if !ok {
		return 0, overflow("%d × %d ÷ %d", int64(a), num, den)
	}
	return c, nil
}

// half returns 1 if rem is at least half of den, otherwise 0.
func half(rem, den uint64) uint64 {
	if rem >= den-rem {
		return 1
	}
	return 0
}
