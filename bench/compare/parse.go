package compare

import (
	"bytes"
	"errors"
	"strconv"
)

// answerParser follows one HTTP/1.1 answer, cut anywhere, and counts its body.
type answerParser struct {
	status int
	body   int64 // bytes of the body without its coding
	closes bool  // the server ends the connection behind it

	state state
	head  []byte // of an answer whose head came in pieces; a size line under way
	left  int64  // of the body or the chunk
}

type state uint8

const (
	inHead state = iota
	inFixed
	inSize    // the line of a chunk's size
	inChunk   // its data
	inEnd     // the line end behind it
	inTrailer // behind the last chunk
)

var errAnswer = errors.New("the answer is not HTTP/1.1 with a length or in chunks")

// reset makes the parser ready for the next answer.
func (p *answerParser) reset() { *p = answerParser{head: p.head[:0]} }

// feed takes the next bytes and reports whether the answer is complete. Bytes
// behind it are an error: nobody pipelines here.
func (p *answerParser) feed(b []byte) (done bool, err error) {
	for len(b) > 0 {
		switch p.state {
		case inHead:
			rest, ok := p.takeHead(b)
			if !ok {
				return false, nil
			}
			if done, err := p.readHead(); done || err != nil {
				return done, p.nothing(rest, err)
			}
			b = rest
		case inFixed, inChunk:
			n := min(p.left, int64(len(b)))
			p.left -= n
			p.body += n
			b = b[n:]
			if p.left > 0 {
				return false, nil
			}
			if p.state == inFixed {
				return true, p.nothing(b, nil)
			}
			p.state = inEnd
		case inSize, inEnd, inTrailer:
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				p.head = append(p.head, b...)
				return false, nil
			}
			line := b[:i]
			if len(p.head) > 0 {
				p.head = append(p.head, line...)
				line = p.head
			}
			line = bytes.TrimSuffix(line, []byte{'\r'})
			p.head = p.head[:0]
			b = b[i+1:]
			if done, err := p.line(line); done || err != nil {
				return done, p.nothing(b, err)
			}
		}
	}
	return false, nil
}

func (p *answerParser) nothing(rest []byte, err error) error {
	if err == nil && len(rest) > 0 {
		return errAnswer
	}
	return err
}

// line takes a line of the chunked coding.
func (p *answerParser) line(line []byte) (done bool, err error) {
	switch p.state {
	case inSize:
		n, ok := parseHex(line)
		if !ok {
			return false, errAnswer
		}
		if p.left = n; n == 0 {
			p.state = inTrailer
		} else {
			p.state = inChunk
		}
	case inEnd:
		if len(line) > 0 {
			return false, errAnswer
		}
		p.state = inSize
	default:
		return len(line) == 0, nil
	}
	return false, nil
}

func parseHex(b []byte) (n int64, ok bool) {
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int64(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			n = n<<4 | int64(c|0x20-'a'+10)
		default:
			return n, c == ';' && i > 0
		}
		if i > 12 {
			return 0, false
		}
	}
	return n, len(b) > 0
}

// takeHead collects the head in p.head and returns what stands behind it.
func (p *answerParser) takeHead(b []byte) (rest []byte, ok bool) {
	had := len(p.head)
	p.head = append(p.head, b...)
	i := bytes.Index(p.head[max(0, had-3):], []byte("\r\n\r\n"))
	if i < 0 {
		return nil, false
	}
	end := max(0, had-3) + i + 4
	p.head = p.head[:end]
	return b[end-had:], true
}

// readHead reads status and framing and empties p.head.
func (p *answerParser) readHead() (done bool, err error) {
	h := p.head
	if len(h) < len("HTTP/1.1 200") || string(h[:7]) != "HTTP/1." {
		return false, errAnswer
	}
	if p.status, err = strconv.Atoi(string(h[9:12])); err != nil {
		return false, errAnswer
	}
	if p.status < 200 {
		p.head = p.head[:0]
		return false, nil // an interim answer
	}
	length := int64(-1)
	chunked := false
	lines := h
	for len(lines) > 0 {
		var line []byte
		line, lines, _ = bytes.Cut(lines, []byte("\r\n"))
		switch {
		case len(line) > 15 && (line[0]|0x20) == 'c' && bytes.EqualFold(line[:15], []byte("content-length:")):
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(line[15:])), 10, 64); err != nil || length < 0 {
				return false, errAnswer
			}
		case len(line) > 18 && (line[0]|0x20) == 't' && bytes.EqualFold(line[:18], []byte("transfer-encoding:")):
			chunked = bytes.EqualFold(bytes.TrimSpace(line[18:]), []byte("chunked"))
		case len(line) > 11 && (line[0]|0x20) == 'c' && bytes.EqualFold(line[:11], []byte("connection:")):
			p.closes = bytes.EqualFold(bytes.TrimSpace(line[11:]), []byte("close"))
		}
	}
	p.head = p.head[:0]
	switch {
	case chunked:
		p.state = inSize
	case length == 0:
		return true, nil
	case length > 0:
		p.state, p.left = inFixed, length
	default:
		return false, errAnswer
	}
	return false, nil
}
