package gateway

import (
	"errors"
	"io"
	"math"
	"strings"

	"github.com/tidwall/gjson"
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
	want    bool // the last top-level key was "usage": its value comes next
}

// maxUsage bounds a usage object; real ones have some hundred bytes.
const maxUsage = 64 << 10

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
func newAnswerScan(coding string, head []byte) *answerScan {
	a := &answerScan{plain: &scanner{}}
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
