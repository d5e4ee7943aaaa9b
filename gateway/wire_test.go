package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/bench"
	"tollgate/internal/testkit/wait"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// wire is a client's connection to the gateway, byte by byte.
type wire struct {
	t testing.TB
	net.Conn
	br *bufio.Reader
}

func (f *fixture) dial() *wire {
	f.t.Helper()
	return newWire(f.t, f.addr)
}

func newWire(t testing.TB, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &wire{t: t, Conn: c, br: bufio.NewReader(c)}
}

// send writes text with its line breaks as CRLF.
func (w *wire) send(text string) {
	w.t.Helper()
	w.raw(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n"))
}

func (w *wire) raw(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatal(err)
	}
}

// reply reads one answer to a request of the given method.
func (w *wire) reply(method string) reply {
	w.t.Helper()
	resp, err := http.ReadResponse(w.br, &http.Request{Method: method})
	if err != nil {
		w.t.Fatalf("read the answer: %v", err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("read the answer's body: %v", err)
	}
	return reply{resp, string(b)}
}

// line reads one line without its end.
func (w *wire) line() string {
	w.t.Helper()
	s, err := w.br.ReadString('\n')
	if err != nil {
		w.t.Fatalf("read a line: %v (had %q)", err, s)
	}
	return strings.TrimRight(s, "\r\n")
}

// ended expects that the gateway has closed the connection.
func (w *wire) ended() {
	w.t.Helper()
	b, err := io.ReadAll(w.br)
	if len(b) > 0 {
		w.t.Errorf("%q came although the connection was to end", b)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		w.t.Errorf("the connection was not closed")
	}
}

// alive expects that the connection still serves, and that the gateway is in
// step with it.
func (w *wire) alive() {
	w.t.Helper()
	w.send("GET /healthz HTTP/1.1\nHost: gw\n\n")
	if r := w.reply("GET"); r.StatusCode != 200 || r.body != "ok\n" {
		w.t.Errorf("the next request got %d %q", r.StatusCode, r.body)
	}
}

// apiHead is a request to the API product under an AppCode, without the
// blank line.
func apiHead(method, path string, fields ...string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\nHost: gw\nX-Apig-AppCode: %s\n%s", method, path, appCode, lines(fields))
}

func lines(fields []string) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(f + "\n")
	}
	return b.String()
}

// peer is one connection of a scripted upstream.
type peer struct {
	net.Conn
	br *bufio.Reader
	n  int // connections before this one
}

// head reads a request's head and returns its lines.
func (p *peer) head() ([]string, error) {
	var out []string
	for {
		s, err := p.br.ReadString('\n')
		if err != nil {
			return out, err
		}
		if s = strings.TrimRight(s, "\r\n"); s == "" {
			return out, nil
		}
		out = append(out, s)
	}
}

// request reads a whole request.
func (p *peer) request() (*http.Request, string, error) {
	req, err := http.ReadRequest(p.br)
	if err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(req.Body)
	return req, string(b), err
}

// say writes text with its line breaks as CRLF.
func (p *peer) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	_, _ = io.WriteString(p, strings.ReplaceAll(text, "\n", "\r\n"))
}

// upstreamOf runs serve for each connection to it, until the test ends, and
// returns its address as a URL.
func upstreamOf(t testing.TB, serve func(p *peer)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	closed := false
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if closed {
				_ = c.Close()
			}
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(&peer{Conn: c, br: bufio.NewReader(c), n: n})
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		closed = true
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + ln.Addr().String()
}

// answering is an upstream that answers every request with the same text.
func answering(t testing.TB, answer string) string {
	t.Helper()
	return upstreamOf(t, func(p *peer) {
		for {
			if _, _, err := p.request(); err != nil {
				return
			}
			head, body, _ := strings.Cut(answer, "\n\n")
			if strings.Contains(head, "Content-Length: ") && !strings.Contains(head, "chunked") { // the body is as it is
				p.say("%s\n\n", head)
				_, _ = io.WriteString(p, body)
			} else {
				p.say("%s", answer)
			}
			if strings.Contains(answer, "Connection: close") || strings.HasPrefix(answer, "HTTP/1.0") {
				return
			}
		}
	})
}

// echo reads the mock's echo of a request.
func (r reply) echo(t testing.TB) bench.Echo {
	t.Helper()
	var e bench.Echo
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("%d %s: %v", r.StatusCode, r.body, err)
	}
	return e
}

// code is the error code of a refusal, in either envelope.
func (r reply) code(t testing.TB) string {
	t.Helper()
	var e struct {
		Code string `json:"error_code"`
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("%d %q: %v", r.StatusCode, r.body, err)
	}
	return e.Code
}

// openAI is the error of a refusal in OpenAI's envelope.
type openAI struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

func (r reply) openAI(t testing.TB) openAI {
	t.Helper()
	var e struct {
		Error *openAI `json:"error"`
	}
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.Error == nil {
		t.Fatalf("%d %q: not OpenAI's envelope: %v", r.StatusCode, r.body, err)
	}
	return *e.Error
}

// copyBody reads an answer's body to its end.
func copyBody(w io.Writer, resp *http.Response) (int64, error) { return io.Copy(w, resp.Body) }

// heap is the memory in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

func itoa(n int) string { return strconv.Itoa(n) }

func readFull(r io.Reader, b []byte) (int, error) { return io.ReadFull(r, b) }

// unchunk takes the frames of chunks out of what is left of a chunked body.
func unchunk(s string) string {
	return chunkFrame.ReplaceAllString(s, "")
}

var chunkFrame = regexp.MustCompile(`(\r\n)?[0-9a-f]+\r\n`)

// broken makes a streamed chat call and returns what came of its body, and how
// it ended.
func (f *fixture) broken(body string, header ...string) (string, error) {
	f.t.Helper()
	req, err := http.NewRequest("POST", f.url+"/v1/infers/"+callInfer+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+callKey)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	var b strings.Builder
	_, err = io.Copy(&b, resp.Body)
	return b.String(), err
}

// gauge is the value of a metric without labels.
func gauge(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		m := f.GetMetric()[0]
		if c := m.GetCounter(); c != nil {
			return c.GetValue()
		}
		return m.GetGauge().GetValue()
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// eventually waits until probe returns nil.
func (f *fixture) eventually(what string, probe func() error) {
	f.t.Helper()
	wait.Until(f.t, patience, what, func(context.Context) error { return probe() })
}

func itoaHex(n int) string { return strconv.FormatInt(int64(n), 16) }
