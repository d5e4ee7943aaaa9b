package compare

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// feedAll gives the parser an answer in pieces of n bytes.
func feedAll(text string, n int) (p answerParser, done bool, err error) {
	for len(text) > 0 {
		size := min(n, len(text))
		if done, err = p.feed([]byte(text[:size])); err != nil {
			return p, done, err
		}
		text = text[size:]
		if done && len(text) > 0 {
			return p, done, errAnswer
		}
	}
	return p, done, nil
}

func TestAnswerParser(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, answer string
		status       int
		body         int64
		closes, done bool
		bad          bool
	}{
		{name: "length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: 5, done: true},
		{name: "lower case, nginx's order", answer: "HTTP/1.1 503 No\r\nserver: x\r\ncontent-length:3\r\nconnection: close\r\n\r\nabc", status: 503, body: 3, done: true, closes: true},
		{name: "no body", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, done: true},
		{name: "chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n", status: 200, body: 15, done: true},
		{name: "trailer", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n", status: 200, body: 1, done: true},
		{name: "interim answer first", answer: "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", status: 200, body: 1, done: true},
		{name: "cut in the body", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", status: 200, body: 3},
		{name: "cut in a chunk's size", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5", status: 200},
		{name: "without a length", answer: "HTTP/1.1 200 OK\r\n\r\n", bad: true},
		{name: "bytes behind it", answer: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy", bad: true},
		{name: "a chunk longer than it says", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n", bad: true},
		{name: "no number", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", bad: true},
		{name: "not HTTP", answer: "SSH-2.0-OpenSSH_9.2p1\r\n\r\n", bad: true},
	} {
		for _, n := range []int{1, 2, 3, 7, 1 << 20} {
			p, done, err := feedAll(tt.answer, n)
			if (err != nil) != tt.bad {
				t.Errorf("%s in pieces of %d: %v, want an error: %v", tt.name, n, err, tt.bad)
			}
			if tt.bad {
				continue
			}
			if done != tt.done || p.status != tt.status || p.body != tt.body || p.closes != tt.closes {
				t.Errorf("%s in pieces of %d: done %v, status %d, body %d, closes %v", tt.name, n, done, p.status, p.body, p.closes)
			}
		}
	}
}

// FuzzAnswerParser: where it is cut does not matter, and what it takes for a
// whole answer net/http takes for the same.
func FuzzAnswerParser(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 3)
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1)
	f.Fuzz(func(t *testing.T, text string, n int) {
		if n < 1 || len(text) > 1<<16 {
			return
		}
		whole, done, err := feedAll(text, len(text)+1)
		cut, cutDone, cutErr := feedAll(text, n)
		if done != cutDone || (err != nil) != (cutErr != nil) || err == nil && (whole.status != cut.status || whole.body != cut.body) {
			t.Fatalf("in pieces of %d: %v %v %d %d; whole: %v %v %d %d", n, cutDone, cutErr, cut.status, cut.body, done, err, whole.status, whole.body)
		}
		if !done || err != nil || whole.status != 200 {
			return
		}
		resp, herr := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
		if herr != nil {
			return // net/http is the stricter one
		}
		body, herr := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if herr == nil && resp.StatusCode == 200 && int64(len(body)) != whole.body {
			t.Fatalf("a body of %d bytes, net/http reads %d", whole.body, len(body))
		}
	})
}

func TestRequestSize(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		request string
		size    int
	}{
		{"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", 41},
		{"POST / HTTP/1.1\r\nContent-Length:3\r\nX: 1\r\n\r\nabcdef", 46},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 60},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0},
		{"POST / HTTP/1.1\r\nContent-Le", 0},
	} {
		size, body := requestSize([]byte(tt.request))
		if size != tt.size {
			t.Errorf("%q: %d bytes, want %d", tt.request, size, tt.size)
		}
		if size > 0 && !bytes.HasSuffix([]byte(tt.request)[:body], []byte("\r\n\r\n")) {
			t.Errorf("%q: the body begins at %d", tt.request, body)
		}
	}
}
