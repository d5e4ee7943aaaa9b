package gateway

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"

	"tollgate/internal/meter"
)

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
	ending  bool // the byte just taken ends it
	want    bool // the last top-level key was "usage": its value comes next

	tally *meter.Tally // gets the same text, for billing items beside tokens; nil: none
}

// maxUsage bounds a usage object; real ones have some hundred bytes.
const maxUsage = 64 << 10

// feed takes the next bytes of the text.
func (s *scanner) feed(b []byte) {
	if s.tally != nil {
		s.tally.Feed(b)
	}
	for i := 0; i < len(b); {
		from := i
		if s.inText {
			i += s.text(b[i:])
		} else {
			i += s.sign(b[i])
		}
		if s.taking {
			s.keep(b[from:i])
		}
		if s.ending {
			s.taking, s.ending = false, false
		}
	}
}

// text takes bytes of a string and returns how many.
func (s *scanner) text(b []byte) int {
	if s.escaped {
		s.escaped = false
		s.addKey(b[:1])
		return 1
	}
	n := bytes.IndexByte(b, '"')
	if n < 0 {
		n = len(b)
	}
	if esc := bytes.IndexByte(b[:n], '\\'); esc >= 0 {
		s.escaped = true
		s.addKey(b[:esc+1])
		return esc + 1
	}
	s.addKey(b[:n])
	if n < len(b) {
		s.inText = false
		n++
	}
	return n
}

// addKey keeps the beginning of a key, which is enough to know whether it is
// the one looked for.
func (s *scanner) addKey(b []byte) {
	if s.isKey && len(s.key) <= len(keyName) {
		s.key = append(s.key, b[:min(len(b), len(keyName)+1)]...)
	}
}

const keyName = "usage"

// sign takes one byte outside of strings and returns 1.
func (s *scanner) sign(c byte) int {
	switch c {
	case '"':
		s.inText = true
		if s.isKey = s.depth == 1; s.isKey {
			s.key = s.key[:0]
		}
	case ':':
		if s.depth == 1 {
			s.want, s.isKey = string(s.key) == keyName, false
		}
	case ',':
		if s.depth == 1 {
			s.want, s.key = false, s.key[:0]
		}
	case '{', '[':
		s.depth++
		if s.depth == 2 && s.want && c == '{' {
			s.taking, s.want, s.value = true, false, s.value[:0]
		}
	case '}', ']':
		s.depth--
		s.ending = s.depth == 1 && s.taking
	}
	return 1
}

// keep adds to the usage object under way, or gives it up when it is absurdly
// long.
func (s *scanner) keep(b []byte) {
	if len(s.value)+len(b) > maxUsage {
		s.taking, s.value = false, s.value[:0]
		return
	}
	s.value = append(s.value, b...)
}

// report returns the last usage object seen.
func (s *scanner) report() (report, bool) {
	if s.taking || len(s.value) == 0 {
		return report{}, false
	}
	return parseUsage(s.value)
}

// answerScan reads the usage out of an answer that is relayed as it comes.
type answerScan struct {
	plain *scanner

	// Of a packed answer: what is fed goes through pipe to a goroutine that
	// unpacks it into plain, until stop.
	pipe *io.PipeWriter
	done chan struct{}
}

// newAnswerScan returns a scan of an answer in the given coding that has seen
// head; nil when the coding is not known.
func newAnswerScan(coding string, head []byte, tally *meter.Tally) *answerScan {
	a := &answerScan{plain: &scanner{tally: tally}}
	if coding == "" || strings.EqualFold(coding, "identity") {
		a.feed(head)
		return a
	}
	r, w := io.Pipe()
	d, err := newDecoder(coding, r)
	if err != nil {
		return nil
	}
	a.pipe, a.done = w, make(chan struct{})
	go func() {
		defer close(a.done)
		if !a.plain.readFrom(d, math.MaxInt64) {
			a.plain.forget()
		}
		_ = r.CloseWithError(errUnpacked) // so that no feed waits for ever
	}()
	a.feed(head)
	return a
}

// errUnpacked ends the pipe of an answer whose unpacking has ended.
var errUnpacked = errors.New("the answer was unpacked")

func (a *answerScan) feed(b []byte) {
	if a.pipe != nil {
		_, _ = a.pipe.Write(b) // fails once the unpacking has
		return
	}
	a.plain.feed(b)
}

// stop ends the scan and returns the last usage object seen.
func (a *answerScan) stop() (report, bool) {
	if a.pipe != nil {
		_ = a.pipe.Close()
		<-a.done
	}
	return a.plain.report()
}

// readFrom feeds the scanner up to limit bytes of r, and reports whether r came
// to its regular end within them. Decoders are given foreign data: a panic of
// one is like an error.
func (s *scanner) readFrom(r io.Reader, limit int64) (whole bool) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	defer func() {
		if recover() != nil {
			whole = false
		}
	}()
	for {
		n, err := r.Read(*buf)
		s.feed((*buf)[:n])
		switch limit -= int64(n); {
		case err == io.EOF:
			return true
		case err != nil, limit < 0:
			return false
		}
	}
}

// forget drops what was found.
func (s *scanner) forget() { *s = scanner{} }
