package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/valyala/fasthttp"
)

func readBody(text string, length int, wrap func(io.Reader) io.Reader) (string, *bufio.Reader, *fasthttp.ResponseHeader, error) {
	var h fasthttp.ResponseHeader
	h.SetContentLength(length)
	br := bufio.NewReaderSize(wrap(strings.NewReader(text)), 4096)
	var b body
	b.reset(br, &h)
	out, err := io.ReadAll(&b)
	return string(out), br, &h, err
}

func plain(r io.Reader) io.Reader { return r }

// TestBody: the three framings, and that an end that is none is told.
func TestBody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		text   string
		length int
		want   string
		err    error
		rest   string // left on the connection
	}{
		{"length", "helloNEXT", 5, "hello", nil, "NEXT"},
		{"length, short", "hel", 5, "hel", io.ErrUnexpectedEOF, ""},
		{"to the end", "hello", -2, "hello", nil, ""},
		{"chunks", "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\nNEXT", -1, "hello", nil, "NEXT"},
		{"chunk sizes in every form", "0005\r\nhello\r\nA;x=y\r\n0123456789\r\n1 \t;q=\"z\"\r\n!\r\n000\r\n\r\nNEXT", -1, "hello0123456789!", nil, "NEXT"},
		{"trailers", "1\r\nx\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\nNEXT", -1, "x", nil, "NEXT"},
		{"no chunk", "0\r\n\r\n", -1, "", nil, ""},
		{"ends behind the last chunk", "1\r\nx\r\n0\r\n", -1, "x", nil, ""},
		{"ends before the last chunk", "1\r\nx\r\n", -1, "x", io.ErrUnexpectedEOF, ""},
		{"ends in a chunk", "5\r\nhel", -1, "hel", io.ErrUnexpectedEOF, ""},
		{"ends behind a chunk", "3\r\nhel", -1, "hel", io.ErrUnexpectedEOF, ""},
		{"ends in the CRLF", "3\r\nhel\r", -1, "hel", io.ErrUnexpectedEOF, ""},
		{"ends in the size", "3", -1, "", io.ErrUnexpectedEOF, ""},
		{"ends in the size's line", "3\r", -1, "", io.ErrUnexpectedEOF, ""},
		{"nothing", "", -1, "", io.ErrUnexpectedEOF, ""},
		{"no size", "\r\nhel\r\n", -1, "", errChunkSize, ""},
		{"bad size", "zz\r\nhel\r\n", -1, "", errChunkSize, ""},
		{"signed size", "-3\r\nhel\r\n", -1, "", errChunkSize, ""},
		{"prefixed size", "0x3\r\nhel\r\n", -1, "", errChunkSize, ""},
		{"size with a gap", "1 1\r\nh\r\n0\r\n\r\n", -1, "", errChunkSize, ""},
		{"huge size", "fffffffffffffffff\r\nx", -1, "", errChunkSize, ""},
		{"size ended by LF", "3\nhel\r\n", -1, "", errChunkSize, ""},
		{"CR without LF", "3\rXhel\r\n", -1, "", errChunkSize, ""},
		{"endless extension", "3;" + strings.Repeat("x", 5000) + "\r\nhel\r\n0\r\n\r\n", -1, "", errChunkSize, ""},
		{"longer than its size", "3\r\nhello\r\n0\r\n\r\n", -1, "hel", errChunk, ""},
		{"bad trailer", "1\r\nx\r\n0\r\nno colon\r\n\r\n", -1, "x", errChunk, ""},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": plain, "byte by byte": iotest.OneByteReader} {
			got, br, h, err := readBody(tt.text, tt.length, wrap)
			if got != tt.want || !errors.Is(err, tt.err) && (err != nil || tt.err != nil) {
				t.Errorf("%s, %s: %q %v, want %q %v", tt.name, name, got, err, tt.want, tt.err)
			}
			if rest, _ := io.ReadAll(br); tt.err == nil && string(rest) != tt.rest {
				t.Errorf("%s, %s: %q was left, want %q", tt.name, name, rest, tt.rest)
			}
			if tt.name == "trailers" && (string(h.Peek("X-T")) != "1" || string(h.Peek("X-U")) != "2") {
				t.Errorf("%s: %s", name, h)
			}
		}
	}
	broken := errors.New("reset")
	if _, _, _, err := readBody("3\r\nhel", -1, func(r io.Reader) io.Reader { return io.MultiReader(r, iotest.ErrReader(broken)) }); !errors.Is(err, broken) {
		t.Errorf("a broken connection ended with %v", err)
	}
}

// FuzzChunked holds the reader against net/http's: what that takes for whole
// this takes for whole, with the same bytes; how the bytes come makes no
// difference; and what we write is read back.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"3\r\nhel\r\n0\r\n\r\n", "3;a\r\nhel\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n", "0\r\n\r\n", "3\r\nhel", "1 1\r\nx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, _, _, err := readBody(text, -1, plain)
		slow, _, _, serr := readBody(text, -1, iotest.OneByteReader)
		if got != slow || (err == nil) != (serr == nil) {
			t.Fatalf("%q: %q %v, byte by byte %q %v", text, got, err, slow, serr)
		}
		theirs, terr := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(text)))
		if err == nil && terr == nil && got != string(theirs) {
			t.Fatalf("%q: %q, net/http reads %q", text, got, theirs)
		}
		if err == nil && terr != nil && len(text) < 4000 {
			t.Fatalf("%q: %q, net/http says %v", text, got, terr)
		}
		buf := make([]byte, chunkRoom+len(text)+2)
		copy(buf[chunkRoom:], text)
		if len(text) > 0 {
			framed := append(bytes.Clone(frameChunk(buf, len(text))), "0\r\n\r\n"...)
			if back, _, _, err := readBody(string(framed), -1, plain); err != nil || back != text {
				t.Fatalf("%q was framed as %q and read as %q, %v", text, framed, back, err)
			}
		}
	})
}

func TestFrameChunk(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 15, 16, 255, 256, 4096, 16 << 10, 1 << 20} {
		buf := make([]byte, chunkRoom+n+2)
		if got, want := string(frameChunk(buf, n)), fmt.Sprintf("%x\r\n%s\r\n", n, strings.Repeat("\x00", n)); got != want {
			t.Errorf("%d: %.20q", n, got)
		}
	}
}
