package multipart

import (
	"bytes"
	"errors"
	"mime"
	"strings"
)

// Limits of what is kept.
const (
	maxHeader = 8 << 10 // of one part
	maxValue  = 1 << 10 // of one field that is looked for
	maxParts  = 1000
)

// Errors of a body.
var (
	ErrForm     = errors.New("the multipart body is not framed as its Content-Type says")
	ErrHeader   = errors.New("a part of the multipart body has no valid Content-Disposition: form-data with a name")
	ErrTwice    = errors.New("must not stand twice in the multipart body")
	ErrValue    = errors.New("must be a plain text field of at most 1024 bytes")
	ErrTooMany  = errors.New("the multipart body has more than 1000 parts")
	ErrBoundary = errors.New("the Content-Type names no valid boundary")
)

// Fault is an error of one field.
type Fault struct {
	Field string
	Err   error
}

// Error names the field and what is wrong with it.
func (f *Fault) Error() string { return f.Field + " " + f.Err.Error() }

// Unwrap returns what is wrong.
func (f *Fault) Unwrap() error { return f.Err }

// Field is a field that was looked for and found.
type Field struct {
	Value      string
	Begin, End int64 // where its value stands in the body
}

// Scanner looks for fields in a body that comes in pieces. Make it with New.
type Scanner struct {
	names  []string
	fields map[string]Field

	delim []byte // CRLF, two hyphens, boundary
	state state
	held  []byte // bytes not decided on yet: they may begin a delimiter
	base  int64  // offset of held in the body
	parts int

	name  string // of the field under way; empty: not looked for
	value []byte
	begin int64
	err   error
}

type state uint8

const (
	preamble state = iota
	afterDelimiter
	header
	body
	epilogue
)

// Boundary returns the boundary of a multipart/form-data content type.
func Boundary(contentType string) (string, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" {
		return "", ErrBoundary
	}
	b := params["boundary"]
	if b == "" || len(b) > 70 || strings.HasSuffix(b, " ") {
		return "", ErrBoundary
	}
	return b, nil
}

// New returns a scanner of a body with that boundary for the named fields.
func New(boundary string, names ...string) *Scanner {
	s := &Scanner{names: names, fields: make(map[string]Field), delim: []byte("\r\n--" + boundary)}
	s.held, s.base = append(s.held, "\r\n"...), -2 // the first delimiter may open the body
	return s
}

// Field returns a field, once its whole value has passed.
func (s *Scanner) Field(name string) (Field, bool) {
	f, ok := s.fields[name]
	return f, ok
}

// Feed takes the next bytes of the body. After an error it takes no more.
func (s *Scanner) Feed(p []byte) error {
	if s.err != nil || s.state == epilogue {
		return s.err
	}
	s.held = append(s.held, p...)
	rest := s.held
	for s.err == nil {
		n, more := s.step(rest)
		rest = rest[n:]
		s.base += int64(n)
		if !more {
			break
		}
	}
	s.held = append(s.held[:0], rest...)
	return s.err
}

// End tells whether the body, which has ended, was whole.
func (s *Scanner) End() error {
	if s.err == nil && s.state != epilogue {
		s.err = ErrForm
	}
	return s.err
}

// step takes bytes off b and returns how many; more says that it can go on.
func (s *Scanner) step(b []byte) (n int, more bool) {
	switch s.state {
	case preamble, body:
		i := bytes.Index(b, s.delim)
		if i < 0 {
			n = max(0, len(b)-len(s.delim)+1)
			s.keep(b[:n])
			return n, false
		}
		s.keep(b[:i])
		if s.state == body {
			s.endPart()
		}
		s.state = afterDelimiter
		return i + len(s.delim), true
	case afterDelimiter:
		return s.delimiterEnd(b)
	case header:
		i := bytes.Index(b, []byte("\r\n\r\n"))
		if i < 0 {
			if len(b) > maxHeader {
				s.err = ErrHeader
			}
			return 0, false
		}
		s.beginPart(b[:i+2], s.base+int64(i)+4)
		s.state = body
		s.value = s.value[:0]
		// The CRLF of the blank line stays: the delimiter of a part without any
		// value may begin with it.
		return i + 2, s.err == nil
	default:
		return len(b), false
	}
}

// delimiterEnd takes what stands behind a delimiter: the end of its line, or
// the two hyphens of the last one.
func (s *Scanner) delimiterEnd(b []byte) (n int, more bool) {
	for n < len(b) && (b[n] == ' ' || b[n] == '\t') {
		n++ // RFC 2046 section 5.1.1: padding of the transport
	}
	switch {
	case n > maxHeader:
		s.err = ErrForm
		return 0, false
	case len(b) < n+2:
		return 0, false
	case b[n] == '\r' && b[n+1] == '\n':
		if s.parts++; s.parts > maxParts {
			s.err = ErrTooMany
			return 0, false
		}
		s.state = header
		// Kept: a part without any field begins with the blank line at once.
		return n, true
	case n == 0 && b[0] == '-' && b[1] == '-':
		s.state = epilogue
		return len(b), false
	}
	s.err = ErrForm
	return 0, false
}

// beginPart reads the header of a part, which begins with the CRLF of the
// delimiter's line and ends with its own last one. at is where the value begins.
func (s *Scanner) beginPart(head []byte, at int64) {
	s.name = ""
	found := false
	for line := range bytes.SplitSeq(head[2:], []byte("\r\n")) {
		if len(line) == 0 {
			continue
		}
		key, value, ok := bytes.Cut(line, []byte{':'})
		if !ok || len(key) == 0 || line[0] == ' ' || line[0] == '\t' || bytes.ContainsAny(line, "\r\n\x00") {
			s.err = ErrHeader
			return
		}
		if !strings.EqualFold(string(key), "Content-Disposition") {
			continue
		}
		if found {
			s.err = ErrHeader
			return
		}
		found = true
		s.disposition(string(value), head)
	}
	if !found && s.err == nil {
		s.err = ErrHeader
	}
	s.begin = at
}

// disposition reads which field a part is.
func (s *Scanner) disposition(value string, head []byte) {
	kind, params, err := mime.ParseMediaType(strings.TrimSpace(value))
	name := params["name"]
	if err != nil || kind != "form-data" || name == "" {
		// A file's name may hold what the parser does not take; the field's own
		// name must be plain all the same.
		if name = plainName(value); name == "" {
			s.err = ErrHeader
			return
		}
	}
	for _, want := range s.names {
		if !strings.EqualFold(strings.TrimSpace(name), want) {
			continue
		}
		_, file := params["filename"]
		switch _, twice := s.fields[want]; {
		case twice:
			s.err = &Fault{want, ErrTwice}
		case name != want, file, err != nil, bytes.Contains(bytes.ToLower(head), []byte("content-transfer-encoding")):
			s.err = &Fault{want, ErrValue}
		}
		s.name = want
	}
}

// plainName returns the name of a part as curl and the browsers write it, empty
// when it is not written like that.
func plainName(value string) string {
	rest, ok := strings.CutPrefix(strings.TrimSpace(value), `form-data; name="`)
	if !ok {
		return ""
	}
	name, _, ok := strings.Cut(rest, `"`)
	if !ok || strings.Contains(name, `\`) || strings.Count(strings.ToLower(value), "name=") > 2 {
		return ""
	}
	return name
}

// keep takes bytes of a part's value.
func (s *Scanner) keep(b []byte) {
	if s.state != body || s.name == "" {
		return
	}
	if len(s.value)+len(b) > maxValue+2 {
		s.err = &Fault{s.name, ErrValue}
		return
	}
	s.value = append(s.value, b...)
}

// endPart takes the end of a part.
func (s *Scanner) endPart() {
	if s.name == "" || s.err != nil {
		return
	}
	// The value still has the CRLF of the blank line before it.
	v, ok := bytes.CutPrefix(s.value, []byte("\r\n"))
	if !ok {
		v = nil // the delimiter's CRLF is the blank line's: nothing between
	}
	s.fields[s.name] = Field{Value: string(v), Begin: s.begin, End: s.begin + int64(len(v))}
	s.name = ""
}
