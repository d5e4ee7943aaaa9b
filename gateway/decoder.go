package gateway

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// newDecoder returns a reader of what r holds under the content coding. It
// yields bytes as soon as they can be decoded, which keeps a compressed stream
// of events a stream. Several codings in a row and unknown ones are an error.
func newDecoder(coding string, r io.Reader) (io.Reader, error) {
	switch strings.ToLower(strings.TrimSpace(coding)) {
	case "", "identity":
		return r, nil
	case "gzip", "x-gzip":
		return &lazyDecoder{open: func() (io.Reader, error) { return gzip.NewReader(r) }}, nil
	case "deflate":
		return &lazyDecoder{open: func() (io.Reader, error) { return openDeflate(r) }}, nil
	case "br":
		return brotli.NewReader(r), nil
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		return &zstdReader{d}, nil
	}
	return nil, fmt.Errorf("content coding %q is not known", coding)
}

// openDeflate opens what is called deflate: the zlib format, or the bare stream
// that some servers send under that name (RFC 9110 section 8.4.1.2).
func openDeflate(r io.Reader) (io.Reader, error) {
	br := bufio.NewReader(r)
	head, err := br.Peek(2)
	if err != nil {
		return nil, err
	}
	if head[0]&15 == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(br)
	}
	return flate.NewReader(br), nil
}

// lazyDecoder opens its decoder at the first read: gzip and zlib read their
// header when they are made, which must not happen before the answer's header
// was relayed.
type lazyDecoder struct {
	open func() (io.Reader, error)
	r    io.Reader
}

func (d *lazyDecoder) Read(p []byte) (int, error) {
	if d.r == nil {
		r, err := d.open()
		if err != nil {
			return 0, err
		}
		d.r = r
	}
	return d.r.Read(p)
}

type zstdReader struct{ *zstd.Decoder }

// Read frees the decoder's buffers at the end of the text.
func (z *zstdReader) Read(p []byte) (int, error) {
	n, err := z.Decoder.Read(p)
	if err != nil {
		z.Decoder.Close()
	}
	return n, err
}
