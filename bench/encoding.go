package bench

import (
	"bytes"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// flusher is what the four compressors have in common.
type flusher interface {
	io.WriteCloser
	Flush() error
}

// compressor turns events into pieces of one compressed stream, each of which
// can be decoded as soon as it arrives.
type compressor interface {
	flushed(event []byte) []byte // the bytes that make event readable
	finish() []byte              // the end of the stream
}

type compressing struct {
	w   flusher
	out bytes.Buffer
}

// newCompressor returns a compressor for a Content-Encoding, which has been
// checked. "deflate" is the zlib format, as RFC 9110 section 8.4.1.2 says.
func newCompressor(encoding string) compressor {
	c := &compressing{}
	switch encoding {
	case "gzip":
		c.w = gzip.NewWriter(&c.out)
	case "deflate":
		c.w = zlib.NewWriter(&c.out)
	case "br":
		c.w = brotli.NewWriter(&c.out)
	case "zstd":
		w, err := zstd.NewWriter(&c.out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err) // the options are constants
		}
		c.w = w
	default:
		panic(fmt.Sprintf("bench: unchecked encoding %q", encoding))
	}
	return c
}

// Writing to a buffer does not fail, so neither does compressing into it.
func (c *compressing) flushed(event []byte) []byte {
	c.out.Reset()
	must(c.w.Write(event))
	must(0, c.w.Flush())
	return c.out.Bytes()
}

func (c *compressing) finish() []byte {
	c.out.Reset()
	must(0, c.w.Close())
	return c.out.Bytes()
}

func must(_ int, err error) {
	if err != nil {
		panic(err)
	}
}

// compressAll returns body in a Content-Encoding.
func compressAll(encoding string, body []byte) []byte {
	c := newCompressor(encoding).(*compressing)
	must(c.w.Write(body))
	must(0, c.w.Close())
	return c.out.Bytes()
}
