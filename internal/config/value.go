package config

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// Size is an amount of bytes, written as in 512, 64KiB, 4MiB or 1GiB.
type Size int64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(b []byte) error {
	text := string(b)
	unit := int64(1)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if t, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = strings.TrimSpace(t), u
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is not a size: write it as in 512, 64KiB, 4MiB or 1GiB", b)
	}
	*s = Size(n * unit)
	return nil
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		n    Size
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if s >= u.n && s%u.n == 0 {
			return strconv.FormatInt(int64(s/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Secret is a text that prints masked. Written as file:PATH it is read from
// that file, without the line break at its end.
type Secret struct {
	value  string
	origin string // the file: form it was written in
}

// NewSecret returns a secret of the given text.
func NewSecret(text string) Secret { return Secret{value: text} }

// UnmarshalText reads the text or the file it names.
func (s *Secret) UnmarshalText(b []byte) error {
	text := string(b)
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the file it names: %w", err)
		}
		*s = Secret{value: strings.TrimRight(string(content), "\r\n"), origin: text}
		return nil
	}
	*s = Secret{value: text}
	return nil
}

// Reveal returns the text itself.
func (s Secret) Reveal() string { return s.value }

// String masks the text. A store without a password shows as it is, because
// operators need to see it.
func (s Secret) String() string {
	switch {
	case s.origin != "":
		return s.origin
	case s.value == "" || s.value == Embedded:
		return s.value
	case strings.Contains(s.value, "://"):
		return redactURL(s.value)
	}
	return "***"
}

// GoString masks the text.
func (s Secret) GoString() string { return s.String() }

// redactURL hides user, password and query of a store's address.
func redactURL(raw string) string {
	scheme, rest, _ := strings.Cut(raw, "://")
	rest, _, query := strings.Cut(rest, "?")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = "***@" + rest[i+1:]
	}
	if query {
		rest += "?***"
	}
	return scheme + "://" + rest
}

func splitHostPort(a string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(a)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	return host, port, err
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
