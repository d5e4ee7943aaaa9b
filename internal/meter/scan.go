package meter

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
)

// maxAmount is the greatest amount that is believed; more is taken for absent.
const maxAmount = 1 << 40

// scan finds the values of a set of paths in one JSON text that comes in
// pieces. It takes the text for valid: of another it finds what stands where
// the paths lead, or nothing, but never fails.
type scan struct {
	paths []path
	all   uint32

	values [maxPaths]float64
	found  uint32 // bits of paths

	depth int
	// at[d] are the paths that lead into the container at depth d, whose keys
	// before the d-th have matched; counts[d] those that count its elements, and
	// texts[d] those that count the characters of its texts.
	at, counts, texts [maxDepth + 2]uint32
	list              [maxDepth + 2]bool

	inText  bool
	escaped bool
	hex     int  // digits of \uXXXX still to come
	unit    uint // the code unit they make
	isKey   bool
	wantKey bool // the next string is a key
	key     []byte
	keyLong bool // the key is longer than any that is looked for
	keyEsc  bool // it holds an escape

	value uint32 // paths that take the scalar under way
	text  uint32 // paths that take the text under way
	chars int64
	num   []byte
	inNum bool
}

func (s *scan) reset(paths []path) {
	*s = scan{paths: paths, all: 1<<len(paths) - 1, key: s.key[:0], num: s.num[:0]}
}

// feed takes the next bytes of the text.
func (s *scan) feed(b []byte) {
	for i := 0; i < len(b); {
		if s.inText {
			i += s.takeText(b[i:])
			continue
		}
		c := b[i]
		if s.inNum {
			if c >= '0' && c <= '9' || c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E' {
				if len(s.num) < 40 {
					s.num = append(s.num, c)
				} else {
					s.value = 0 // no amount is written like this
				}
				i++
				continue
			}
			s.endNumber()
		}
		s.sign(c)
		i++
	}
}

// end takes the end of the text.
func (s *scan) end() {
	if s.inNum {
		s.endNumber()
	}
}

// sign takes one byte outside of strings and numbers.
func (s *scan) sign(c byte) {
	switch c {
	case '"':
		s.inText, s.chars = true, 0
		if s.isKey = s.wantKey; s.isKey {
			s.key, s.keyLong, s.keyEsc, s.wantKey = s.key[:0], false, false, false
			return
		}
		full := s.begin()
		s.text = full & s.of(characters)
		if d := s.depth; d > 0 && d < len(s.texts) {
			s.text |= s.texts[d]
		}
	case '{', '[':
		s.open(c == '[')
	case '}', ']':
		if s.depth > 0 {
			s.depth--
		}
		s.wantKey = false
	case ',':
		s.wantKey = s.depth > 0 && s.depth < len(s.list) && !s.list[s.depth]
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		s.value = s.begin() & s.of(number)
		s.inNum, s.num = true, append(s.num[:0], c)
	case 't', 'f', 'n':
		s.begin() // of true, false and null; the letters behind it mean nothing
	}
}

// begin is told that a value begins, counts it as an element, and returns the
// paths that lead to it.
func (s *scan) begin() (full uint32) {
	d := s.depth
	if d == 0 || d >= len(s.at) {
		return 0
	}
	for m := s.counts[d]; m != 0; m &= m - 1 {
		s.values[lowest(m)]++
	}
	for m := s.at[d]; m != 0; m &= m - 1 {
		i := lowest(m)
		if p := &s.paths[i]; len(p.keys) == d && s.matches(p.keys[d-1]) {
			full |= 1 << i
		}
	}
	return full
}

// matches reports whether the value that begins is the one of a segment.
func (s *scan) matches(segment string) bool {
	if s.list[s.depth] {
		return segment == each
	}
	return segment != each && !s.keyLong && string(s.key) == segment
}

// open takes the beginning of an object or a list.
func (s *scan) open(list bool) {
	full := s.begin()
	d := s.depth
	var into uint32
	if d == 0 {
		into = s.all
	} else if d < len(s.at) {
		for m := s.at[d]; m != 0; m &= m - 1 {
			i := lowest(m)
			if p := &s.paths[i]; len(p.keys) > d && s.matches(p.keys[d-1]) {
				into |= 1 << i
			}
		}
	}
	s.depth++
	d = s.depth
	s.wantKey = !list
	if d >= len(s.at) {
		return
	}
	s.at[d], s.list[d], s.counts[d], s.texts[d] = into, list, 0, 0
	if list {
		s.counts[d], s.texts[d] = full&s.of(elements), full&s.of(characters)
		for m := s.counts[d]; m != 0; m &= m - 1 {
			if i := lowest(m); s.found&(1<<i) == 0 || !s.paths[i].many {
				s.values[i] = 0
			}
		}
		s.found |= s.counts[d] | s.texts[d]
	}
}

// of returns the paths of a mode.
func (s *scan) of(m mode) (out uint32) {
	for i := range s.paths {
		if s.paths[i].mode == m {
			out |= 1 << i
		}
	}
	return out
}

// endNumber gives the number that has ended to the paths that lead to it.
func (s *scan) endNumber() {
	s.inNum = false
	v, err := strconv.ParseFloat(string(s.num), 64)
	if err == nil && v >= 0 && v <= maxAmount {
		s.add(s.value, v)
	}
	s.value = 0
}

// add gives v to paths. Of a key that stands twice the greater amount counts.
func (s *scan) add(to uint32, v float64) {
	for m := to; m != 0; m &= m - 1 {
		i := lowest(m)
		if s.paths[i].many || s.paths[i].mode == characters {
			s.values[i] = math.Min(s.values[i]+v, maxAmount)
		} else {
			s.values[i] = math.Max(s.values[i], v)
		}
		s.found |= 1 << i
	}
}

// takeText takes bytes of a string and returns how many.
func (s *scan) takeText(b []byte) int {
	if s.hex > 0 {
		s.addKey(b[:1])
		s.unit = s.unit<<4 | nibble(b[0])
		if s.hex--; s.hex == 0 && (s.unit < 0xdc00 || s.unit > 0xdfff) {
			s.chars++ // the second half of a pair belongs to the first
		}
		return 1
	}
	if s.escaped {
		s.escaped = false
		s.addKey(b[:1])
		if b[0] == 'u' {
			s.hex, s.unit = 4, 0
		} else {
			s.chars++
		}
		return 1
	}
	n := len(b)
	if i := bytes.IndexByte(b, '"'); i >= 0 {
		n = i
	}
	if i := bytes.IndexByte(b[:n], '\\'); i >= 0 {
		s.plain(b[:i])
		s.addKey(b[i : i+1])
		s.escaped, s.keyEsc = true, true
		return i + 1
	}
	s.plain(b[:n])
	if n == len(b) {
		return n
	}
	s.endText()
	return n + 1
}

// plain takes bytes of a string that stand for themselves.
func (s *scan) plain(b []byte) {
	s.addKey(b)
	if s.text == 0 {
		return
	}
	for _, c := range b {
		if c&0xc0 != 0x80 {
			s.chars++
		}
	}
}

// addKey keeps a key while it may be one that is looked for. An escape makes
// the text up to six times longer than the key.
func (s *scan) addKey(b []byte) {
	if !s.isKey || s.keyLong {
		return
	}
	if len(s.key)+len(b) > 6*maxKey {
		s.keyLong = true
		return
	}
	s.key = append(s.key, b...)
}

// endText takes the end of a string.
func (s *scan) endText() {
	s.inText = false
	if s.isKey {
		s.isKey = false
		if s.keyEsc {
			var key string
			if json.Unmarshal(append(append([]byte{'"'}, s.key...), '"'), &key) != nil {
				s.keyLong = true
			}
			s.key = append(s.key[:0], key...)
		}
		return
	}
	if s.text != 0 {
		s.add(s.text, float64(s.chars))
		s.text = 0
	}
}

func nibble(c byte) uint {
	switch {
	case c >= '0' && c <= '9':
		return uint(c - '0')
	case c >= 'a' && c <= 'f':
		return uint(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return uint(c-'A') + 10
	}
	return 0
}
