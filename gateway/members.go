package gateway

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// members reads a JSON object and calls f for each of its members, in order,
// with the text of the key between its quotes, escapes and all, and the value's
// place in text. It reports whether text is one JSON object and nothing else, by
// the grammar of RFC 8259; f may have been called before a fault is found. When
// f returns false the rest is read without it.
//
// It is one pass, where a check followed by a walk is two, and it passes over
// what is inside strings eight bytes at a time: most of a call is text.
func members(text []byte, f func(key []byte, from, to int) bool) bool {
	s := jsonScan{b: text}
	return s.whole(f)
}

// looseMembers is members for texts that are relayed whether or not they are
// valid: it only follows strings and brackets, which takes a fraction of the
// time. Of a valid text it reports what members does.
func looseMembers(text []byte, f func(key []byte, from, to int) bool) bool {
	s := jsonScan{b: text, loose: true}
	return s.whole(f)
}

// maxDepth is how deep values may be nested, as in encoding/json.
const maxDepth = 10_000

// jsonScan checks JSON. Its methods take the place a thing begins at and return
// the one behind it, below 0 when it is not valid.
type jsonScan struct {
	b     []byte
	depth int
	loose bool
}

func (s *jsonScan) whole(f func(key []byte, from, to int) bool) bool {
	i := s.space(0)
	if i >= len(s.b) || s.b[i] != '{' {
		return false
	}
	if i = s.object(i, f); i < 0 {
		return false
	}
	return s.space(i) == len(s.b)
}

func (s *jsonScan) space(i int) int {
	if i < len(s.b) && s.b[i] > ' ' {
		return i
	}
	return s.skipSpace(i)
}

func (s *jsonScan) skipSpace(i int) int {
	for i < len(s.b) && (s.b[i] == ' ' || s.b[i] == '\n' || s.b[i] == '\t' || s.b[i] == '\r') {
		i++
	}
	return i
}

// object reads an object that begins at i with its brace.
func (s *jsonScan) object(i int, f func(key []byte, from, to int) bool) int {
	if s.depth++; s.depth > maxDepth {
		return -1
	}
	b := s.b
	i = s.space(i + 1)
	if i < len(b) && b[i] == '}' {
		s.depth--
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return -1
		}
		key := i + 1
		if i = s.text(i); i < 0 {
			return -1
		}
		end := i - 1
		if i = s.space(i); i >= len(b) || b[i] != ':' {
			return -1
		}
		from := s.space(i + 1)
		if i = s.value(from); i < 0 {
			return -1
		}
		if f != nil && !f(b[key:end], from, i) {
			f = nil
		}
		if i = s.space(i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case '}':
			s.depth--
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return -1
		}
	}
}

func (s *jsonScan) array(i int) int {
	if s.depth++; s.depth > maxDepth {
		return -1
	}
	b := s.b
	i = s.space(i + 1)
	if i < len(b) && b[i] == ']' {
		s.depth--
		return i + 1
	}
	for {
		if i = s.value(i); i < 0 {
			return -1
		}
		if i = s.space(i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ']':
			s.depth--
			return i + 1
		case ',':
			i = s.space(i + 1)
		default:
			return -1
		}
	}
}

func (s *jsonScan) value(i int) int {
	if i >= len(s.b) {
		return -1
	}
	if s.loose {
		return s.looseValue(i)
	}
	switch c := s.b[i]; c {
	case '"':
		return s.text(i)
	case '{':
		return s.object(i, nil)
	case '[':
		return s.array(i)
	case 't':
		return s.word(i, "true")
	case 'f':
		return s.word(i, "false")
	case 'n':
		return s.word(i, "null")
	default:
		return s.number(i)
	}
}

func (s *jsonScan) word(i int, w string) int {
	if len(s.b)-i < len(w) || string(s.b[i:i+len(w)]) != w {
		return -1
	}
	return i + len(w)
}

func (s *jsonScan) number(i int) int {
	b := s.b
	if b[i] == '-' {
		i++
	}
	switch {
	case i >= len(b) || b[i] < '0' || b[i] > '9':
		return -1
	case b[i] == '0':
		i++
	default:
		i = s.digits(i)
	}
	if i < len(b) && b[i] == '.' {
		if i = s.someDigits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return s.someDigits(i)
	}
	return i
}

func (s *jsonScan) digits(i int) int {
	for i < len(s.b) && s.b[i] >= '0' && s.b[i] <= '9' {
		i++
	}
	return i
}

func (s *jsonScan) someDigits(i int) int {
	if end := s.digits(i); end > i {
		return end
	}
	return -1
}

const (
	eachByte = 0x0101010101010101
	highBits = 0x8080808080808080
)

// text reads a string that begins at i with its quote.
func (s *jsonScan) text(i int) int {
	b := s.b
	i++
	if s.loose {
		return s.looseText(i)
	}
	for {
		for len(b)-i >= 8 {
			x := binary.LittleEndian.Uint64(b[i:])
			q, e := x^('"'*eachByte), x^('\\'*eachByte)
			// The lowest bit set is that of the first byte that is a quote, a
			// backslash or below a space; those above it may be wrong.
			m := ((q-eachByte)&^q | (e-eachByte)&^e | (x-' '*eachByte)&^x) & highBits
			if m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		if i >= len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c != '\\':
			i++
			continue
		}
		if i++; i >= len(b) {
			return -1
		}
		switch b[i] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i++
		case 'u':
			if len(b)-i < 5 {
				return -1
			}
			for _, c := range b[i+1 : i+5] {
				if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
					return -1
				}
			}
			i += 5
		default:
			return -1
		}
	}
}

// looseText reads on in a string to its end.
func (s *jsonScan) looseText(i int) int {
	for from := i; ; {
		n := bytes.IndexByte(s.b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		escapes := 0
		for i-escapes > from && s.b[i-escapes-1] == '\\' {
			escapes++
		}
		if i++; escapes&1 == 0 {
			return i
		}
	}
}

// looseValue passes over a value of any kind.
func (s *jsonScan) looseValue(i int) int {
	b := s.b
	for depth := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i = s.looseText(i + 1); i < 0 {
				return -1
			}
			if depth == 0 {
				return i
			}
			i--
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // behind a number or a word
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return -1
}
