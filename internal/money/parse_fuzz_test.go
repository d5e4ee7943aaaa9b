package money

import (
	"errors"
	"testing"
)

// FuzzParse holds that Parse never panics, answers with one of its two
// sentinels, and reads back what String prints.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "0", "-1.5", "12.50", "1e9", "0.0000001", "9223372036854.775808", "-9223372036854.775808", "..", "00.10"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrOverflow) {
				t.Fatalf("Parse(%q): %v", s, err)
			}
			return
		}
		back, err := Parse(a.String())
		if err != nil || back != a {
			t.Fatalf("Parse(%q) = %d, prints %s, read back as %d, %v", s, int64(a), a, int64(back), err)
		}
	})
}
