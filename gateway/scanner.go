package gateway

import "github.com/tidwall/gjson"

// scanner finds the usage object at the top level of a JSON text that is too
// long to be kept, in pieces cut anywhere. It follows depth and strings, so an
// echo of the word inside the answer is not taken for it; it keeps at most
// maxUsage bytes.
type scanner struct {
	depth   int
	inText  bool
	escaped bool
	isKey   bool // the string under way is a key of the top-level object
	key     []byte
	value   []byte // of "usage", while it is collected and after
	taking  bool
	want    bool // the last top-level key was "usage": its value comes next
}

// maxUsage bounds a usage object; real ones have some hundred bytes.
const maxUsage = 64 << 10

// newScanner returns a scanner that has seen head.
func newScanner(head []byte) *scanner {
	s := &scanner{}
	s.feed(head)
	return s
}

func (s *scanner) feed(b []byte) {
	for _, c := range b {
		if s.taking {
			if len(s.value) < maxUsage {
				s.value = append(s.value, c)
			} else {
				s.taking, s.value = false, s.value[:0]
			}
		}
		if s.inText {
			switch {
			case s.escaped:
				s.escaped = false
			case c == '\\':
				s.escaped = true
			case c == '"':
				s.inText = false
				continue
			}
			if s.isKey && len(s.key) <= len("usage") {
				s.key = append(s.key, c)
			}
			continue
		}
		switch c {
		case '"':
			s.inText = true
			if s.depth == 1 {
				s.isKey, s.key = true, s.key[:0]
			} else {
				s.isKey = false
			}
		case ':':
			if s.depth == 1 {
				s.want, s.isKey = string(s.key) == "usage", false
			}
		case ',':
			if s.depth == 1 {
				s.want = false
				s.key = s.key[:0]
			}
		case '{', '[':
			s.depth++
			if s.depth == 2 && s.want && c == '{' {
				s.taking, s.want = true, false
				s.value = append(s.value[:0], c)
			}
		case '}', ']':
			s.depth--
			if s.depth == 1 && s.taking {
				s.taking = false
			}
		}
	}
}

// report returns the last usage object seen.
func (s *scanner) report() (report, bool) {
	if s.taking || len(s.value) == 0 {
		return report{}, false
	}
	return parseUsage(gjson.ParseBytes(s.value))
}
