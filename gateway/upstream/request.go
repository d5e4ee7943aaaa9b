package upstream

import (
	"io"
	"strconv"
	"time"
)

// Request is a request as it will stand on the wire. Its slices are only read,
// and only during [Exchange.Do].
type Request struct {
	Method []byte
	Target []byte // of the request line: path and query, without the target's base
	// Header holds complete lines, each ending in CRLF, Host among them. The
	// fields that frame the body are written by the exchange and must not be
	// among them.
	Header []byte

	// Repeatable says that the request may be sent again although its method is
	// not idempotent.
	Repeatable bool
	// Total bounds the whole call, from [Exchange.Begun] on; 0 means that nothing
	// does.
	Total time.Duration

	// Body is the whole body, unless Stream is set.
	Body []byte
	// Stream is read to its end and sent as it comes. Length is its length; a
	// negative one means that it is not known, and chunks are sent.
	Stream io.Reader
	Length int64
	// StreamErr tells why Stream broke off, so that a client that vanished is
	// not taken for a failed upstream. It is asked only after an error.
	StreamErr func() error
	// Trailer, when not nil, appends the trailer lines of a chunked body. It is
	// called after Stream has ended.
	Trailer func(dst []byte) []byte
}

// bodyless reports whether a request without a body needs no Content-Length:
// its method does not anticipate one (RFC 9110 section 8.6).
func (r *Request) bodyless() bool {
	if r.Stream != nil || len(r.Body) > 0 {
		return false
	}
	switch string(r.Method) {
	case "POST", "PUT", "PATCH":
		return false
	}
	return true
}

// appendHead appends the request line and the header to dst.
func (r *Request) appendHead(dst []byte) []byte {
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	dst = append(dst, r.Target...)
	dst = append(dst, " HTTP/1.1\r\n"...)
	dst = append(dst, r.Header...)
	switch {
	case r.bodyless():
	case r.Stream == nil:
		dst = appendLength(dst, int64(len(r.Body)))
	case r.Length >= 0:
		dst = appendLength(dst, r.Length)
	default:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

// chunkRoom is the space kept for the size line of a chunk.
const chunkRoom = 10

// frameChunk makes a chunk of the n bytes that stand in buf behind chunkRoom
// and returns the part of buf that holds it. buf needs two bytes behind them.
func frameChunk(buf []byte, n int) []byte {
	at := chunkRoom - 2
	buf[at], buf[at+1] = '\r', '\n'
	for v := n; ; v >>= 4 {
		at--
		buf[at] = "0123456789abcdef"[v&15]
		if v < 16 {
			break
		}
	}
	end := chunkRoom + n
	buf[end], buf[end+1] = '\r', '\n'
	return buf[at : end+2]
}
