package upstream

import (
	"bufio"
	"errors"
	"io"

	"github.com/valyala/fasthttp"
)

// body reads the body of one answer from its connection. It is our own because
// fasthttp's takes a connection that ends between two chunks for the regular
// end of a chunked body: a part would be relayed, and billed, as the whole.
type body struct {
	br      *bufio.Reader
	header  *fasthttp.ResponseHeader // takes the trailers
	framing framing
	left    int64 // bytes of the body, or of the chunk under way
	began   bool  // the first chunk was begun
}

type framing uint8

const (
	fixed   framing = iota // left bytes
	chunked                // RFC 9112 section 7.1
	toEnd                  // until the connection ends
)

var (
	errChunk     = errors.New("a chunk of the answer is malformed")
	errChunkSize = errors.New("a chunk of the answer has no valid size")
)

func (b *body) reset(br *bufio.Reader, h *fasthttp.ResponseHeader) {
	*b = body{br: br, header: h}
	switch n := h.ContentLength(); {
	case n >= 0:
		b.framing, b.left = fixed, int64(n)
	case n == -1:
		b.framing = chunked
	default:
		b.framing = toEnd
	}
}

// Read returns at most what one chunk or one read of the connection brought.
// io.EOF is the regular end of the body; io.ErrUnexpectedEOF says that the
// connection ended before it.
func (b *body) Read(p []byte) (int, error) {
	switch b.framing {
	case toEnd:
		return b.br.Read(p)
	case chunked:
		if b.left == 0 {
			if err := b.nextChunk(); err != nil {
				return 0, err
			}
		}
	default:
		if b.left == 0 {
			return 0, io.EOF
		}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.br.Read(p)
	b.left -= int64(n)
	switch {
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	case err == nil && b.left == 0 && b.framing == fixed:
		return n, io.EOF
	}
	return n, err
}

// maxSizeLine bounds the line of a chunk's size with its extensions.
const maxSizeLine = 4 << 10

// nextChunk reads the end of the chunk before and the size of the next. It
// returns io.EOF when the last chunk and its trailers were read.
func (b *body) nextChunk() error {
	if b.began {
		if err := b.lineEnd(); err != nil {
			return err
		}
	}
	b.began = true
	n, digits, extension := int64(0), 0, false
	for read := 0; ; read++ {
		c, err := b.br.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if d := hexValue(c); d >= 0 && read == digits {
			if digits++; digits > 15 {
				return errChunkSize
			}
			n = n<<4 | int64(d)
			continue
		}
		switch {
		case digits == 0 || read > maxSizeLine || c == '\n':
			return errChunkSize
		case c == '\r':
			if c, err = b.br.ReadByte(); err != nil {
				return unexpected(err)
			}
			if c != '\n' {
				return errChunkSize
			}
			if n > 0 {
				b.left = n
				return nil
			}
			return b.trailers()
		case c == ';':
			extension = true
		case !extension && c != ' ' && c != '\t':
			return errChunkSize
		}
	}
}

// trailers reads what stands behind the last chunk. The body is whole by then,
// so a connection that ends in them does not break it.
func (b *body) trailers() error {
	switch err := b.header.ReadTrailer(b.br); {
	case err == nil, errors.Is(err, io.EOF):
		return io.EOF
	case errors.Is(err, fasthttp.ErrTimeout):
		return err
	default:
		return errChunk
	}
}

func (b *body) lineEnd() error {
	for _, want := range []byte{'\r', '\n'} {
		c, err := b.br.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if c != want {
			return errChunk
		}
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func hexValue(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
