// Package money holds amounts of Chinese yuan as whole millionths (CONV-7).
//
// Nothing here rounds by itself: addition and multiplication are exact or an
// error, and each rounding rule is a function with its own name. There is no
// conversion to or from floating point.
package money
