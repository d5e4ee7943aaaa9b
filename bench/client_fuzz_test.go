package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/iotest"
)

// readAnswer reads one answer from bytes.
func readAnswer(r io.Reader) (reply, bool, error) {
	c := &client{ctx: context.Background(), br: bufio.NewReaderSize(r, 16<<10)}
	var out reply
	keep, err := c.read(&out, false)
	return out, keep, err
}

// FuzzClient reads anything without a panic or a hang, reads the same however
// it arrives, and agrees with net/http on the answers both take.
func FuzzClient(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"error\":1}\r\n\r\ndata:[DONE]\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		one, keep, err := readAnswer(bytes.NewReader(b))
		two, keep2, err2 := readAnswer(iotest.OneByteReader(bytes.NewReader(b)))
		two.firstByte = one.firstByte
		if one != two || keep != keep2 || (err == nil) != (err2 == nil) {
			t.Fatalf("whole: %+v %v %v; byte by byte: %+v %v %v", one, keep, err, two, keep2, err2)
		}
		if err != nil {
			if f := (*failure)(nil); !errors.As(err, &f) {
				t.Fatalf("unclassed error %v", err)
			}
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil || resp.StatusCode < 200 || len(resp.TransferEncoding) == 0 && resp.ContentLength < 0 {
			return
		}
		body, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != one.status || int64(len(body)) != one.bytes) {
			t.Fatalf("%+v; net/http: %d, %d bytes", one, resp.StatusCode, len(body))
		}
	})
}

// TestLineScanner cuts a transcript at every byte.
func TestLineScanner(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text             string
		events           int
		finished, failed bool
	}{
		{"data: {}\n\ndata: [DONE]\n\n", 2, true, false},
		{"data:{}\r\n\r\ndata:[DONE]\r\n\r\n", 2, true, false},
		{": keep-alive\n\ndata: {}\n\n", 1, false, false},
		{"data: {\"choices\":[{\"delta\":{\"content\":\"data: [DONE]\"}}]}\n\n", 1, false, false},
		{"data: [DONE]", 0, false, false}, // no line end: not complete
		{"event: response.completed\ndata: {\"type\":\"response.completed\",\"x\":1}\n\n", 1, true, false},
		{"data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n", 2, true, true},
		{"event: error\ndata: {}\n\n", 1, false, true},
		{"data: {\"type\":\"error\"}\n\n", 1, false, true},
	} {
		for cut := range len(tt.text) + 1 {
			var s lineScanner
			var r reply
			s.scan([]byte(tt.text[:cut]), &r)
			s.scan([]byte(tt.text[cut:]), &r)
			if r.events != tt.events || r.finished != tt.finished || r.failed != tt.failed {
				t.Errorf("%q cut at %d: %+v", tt.text, cut, r)
			}
		}
	}
}
