package apisign

import "errors"

// ErrPath is returned by [CheckPath].
var ErrPath = errors.New("path is ambiguous: it must begin with a slash and hold no dot segments, broken escapes, backslashes or control characters")

// CheckPath refuses the raw paths that a gateway, the signature and an
// upstream could read differently: dot segments, plain or escaped, which some
// readers resolve and others keep; backslashes, which some take for slashes;
// escapes that are none; control characters. Empty segments ("//") and escaped
// slashes pass: they mean the same to whoever keeps the path as it is.
func CheckPath(raw []byte) error {
	if len(raw) == 0 || raw[0] != '/' {
		return ErrPath
	}
	dots, other := 0, false // of the current segment
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '%' {
			d, ok := unhexPair(raw, i)
			if !ok {
				return ErrPath
			}
			c = d
			i += 2
		}
		switch {
		case c == '/':
			if !other && (dots == 1 || dots == 2) {
				return ErrPath
			}
			dots, other = 0, false
		case c == '.':
			dots++
		case c < 0x20 || c == 0x7f || c == '\\':
			return ErrPath
		default:
			other = true
		}
	}
	if !other && (dots == 1 || dots == 2) {
		return ErrPath
	}
	return nil
}
