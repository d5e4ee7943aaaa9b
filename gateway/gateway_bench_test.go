package gateway_test

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"tollgate/gateway"
	"tollgate/internal/apisign"
	"tollgate/internal/usage"
)

// A proxy's cost is the difference to no proxy at all: each benchmark below runs
// the same client and the same upstream, both as cheap as can be, over loopback.
// Compare cpu-us/op of gateway with that of fasthttp (a proxy of thirty lines
// that does nothing) and none.

// fixedUpstream answers every request with the same bytes.
func fixedUpstream(b testing.TB, answer []byte) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				buf := make([]byte, 64<<10)
				for have := 0; ; {
					n, err := c.Read(buf[have:])
					if err != nil {
						return
					}
					have += n
					i := bytes.Index(buf[:have], []byte("\r\n\r\n"))
					if i < 0 {
						continue
					}
					length := 0
					if j := bytes.Index(buf[:i], []byte("Content-Length: ")); j >= 0 {
						for _, d := range buf[j+len("Content-Length: ") : i] {
							if d < '0' {
								break
							}
							length = length*10 + int(d-'0')
						}
					}
					if have < i+4+length {
						continue
					}
					have = 0
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	b.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// bareProxy is what the gateway is measured against.
func bareProxy(b *testing.B, upstream string) (addr string) {
	client := &fasthttp.HostClient{Addr: upstream, NoDefaultUserAgentHeader: true, MaxConns: 1024, StreamResponseBody: true}
	srv := &fasthttp.Server{
		NoDefaultServerHeader: true, NoDefaultContentType: true,
		Handler: func(ctx *fasthttp.RequestCtx) {
			req, resp := &ctx.Request, &ctx.Response
			req.Header.Del("Connection")
			req.SetHost(upstream)
			if err := client.Do(req, resp); err != nil {
				ctx.Error(err.Error(), 502)
			}
			resp.Header.Del("Connection")
		},
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	b.Cleanup(func() { _ = ln.Close(); client.CloseIdleConnections(); _ = srv.Shutdown(); <-done })
	return ln.Addr().String()
}

var hexDigits = []byte("0123456789abcdef")

// free is a quota that always has one more.
type free struct{}

func (free) Admit(string, []usage.Unit, usage.Units, time.Time) (gateway.Hold, error) {
	return free{}, nil
}

func (free) Settle(rec *usage.Record) error {
	rec.Charges = append(rec.Charges, usage.Charge{Lot: "LOT", Amount: 1})
	return nil
}
func (free) Release()                                {}
func (free) Note(*usage.Record)                      {}
func (free) Free()                                   {}
func (free) Checkpoint(*usage.Record) error          { return nil }
func (free) Extend(usage.Units) (usage.Units, error) { return usage.Units{usage.Token: 1 << 40}, nil }

func benchGateway(b testing.TB, upstream string) (addr string) {
	g := gateway.New(gateway.Config{PlainAppCode: true}, gateway.Deps{Admitter: free{}, Recorder: free{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err := g.Swap(snapshot("http://" + upstream)); err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(ln) }()
	b.Cleanup(func() { _ = g.Shutdown(b.Context()); _ = ln.Close(); <-done })
	return ln.Addr().String()
}

// hammer sends the request b.N times over one connection and reads each answer
// to its end, as it is framed.
func hammer(b *testing.B, addr, request string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	br := bufio.NewReaderSize(c, 64<<10)
	req := []byte(request)
	var h fasthttp.ResponseHeader
	one := func() {
		if _, err := c.Write(req); err != nil {
			b.Fatal(err)
		}
		if err := h.Read(br); err != nil {
			b.Fatal(err)
		}
		if h.StatusCode() != 200 {
			b.Fatalf("status %d", h.StatusCode())
		}
		if n := h.ContentLength(); n >= 0 {
			_, _ = br.Discard(n)
			return
		}
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for _, d := range bytes.TrimSpace(line) {
				n = n*16 + bytes.IndexByte(hexDigits, d)
			}
			if n == 0 {
				_, _ = br.Discard(2)
				return
			}
			_, _ = br.Discard(n + 2)
		}
	}
	for range 50 {
		one()
	}
	b.ReportAllocs()
	before := cpuTime()
	for b.Loop() {
		one()
	}
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N)/1e3, "cpu-us/op")
}

// cpuTime is the processor time of the whole process.
func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// compare runs the request against no proxy, a bare one and the gateway.
func compare(b *testing.B, answer, request string) {
	up := fixedUpstream(b, []byte(answer))
	b.Run("none", func(b *testing.B) { hammer(b, up, request) })
	b.Run("fasthttp", func(b *testing.B) { hammer(b, bareProxy(b, up), request) })
	b.Run("gateway", func(b *testing.B) { hammer(b, benchGateway(b, up), request) })
}

func benchAnswer(kind, body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: x\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Type: %s\r\nX-Other: 1\r\nContent-Length: %d\r\n\r\n%s", kind, len(body), body)
}

const benchFields = "Host: gateway.example.com\r\nUser-Agent: OpenAI/JS 6.49.0\r\nAccept: application/json\r\nX-Stainless-Lang: js\r\nX-Stainless-Package-Version: 6.49.0\r\nX-Stainless-Os: Linux\r\nX-Stainless-Retry-Count: 0\r\nAccept-Encoding: gzip, deflate\r\n"

// BenchmarkChat is a chat completion of 1 KB under an API key.
func BenchmarkChat(b *testing.B) {
	text := strings.Repeat("some words of an answer ", 30)
	answer := benchAnswer("application/json", `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"demo-chat","choices":[{"index":0,"message":{"role":"assistant","content":"`+text+`"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}`)
	body := `{"model":"demo-chat","messages":[{"role":"user","content":"` + text + `"}],"temperature":0.5}`
	compare(b, answer, fmt.Sprintf("POST /v1/infers/%s/v1/chat/completions HTTP/1.1\r\n%sAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", callInfer, benchFields, callKey, len(body), body))
}

// BenchmarkAPI is a GET of 1 KB under an AppCode.
func BenchmarkAPI(b *testing.B) {
	compare(b, benchAnswer("application/json", strings.Repeat("x", 1024)), "GET /demo/weather/today?city=beijing HTTP/1.1\r\n"+benchFields+"X-Apig-AppCode: "+appCode+"\r\n\r\n")
}

// BenchmarkSigned is the same under a signature.
func BenchmarkSigned(b *testing.B) {
	up := fixedUpstream(b, []byte(benchAnswer("application/json", strings.Repeat("x", 1024))))
	r := apisign.Request{Method: []byte("GET"), Path: []byte("/demo/weather/today"), Query: []byte("city=beijing"), Host: []byte("gateway.example.com")}
	date := time.Now().UTC().Format(apisign.DateLayout)
	r.Headers = apisign.HTTPHeaders{"X-Sdk-Date": {date}}
	auth, err := apisign.AppendAuthorization(nil, &r, appKey, []byte(appSecret), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("gateway", func(b *testing.B) {
		hammer(b, benchGateway(b, up), "GET /demo/weather/today?city=beijing HTTP/1.1\r\n"+benchFields+"X-Sdk-Date: "+date+"\r\nAuthorization: "+string(auth)+"\r\n\r\n")
	})
}

// BenchmarkStream is a chat completion streamed in 50 events.
func BenchmarkStream(b *testing.B) {
	var answer strings.Builder
	answer.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	event := func(data string) { fmt.Fprintf(&answer, "%x\r\ndata: %s\n\n\r\n", len(data)+8, data) }
	for i := range 50 {
		event(fmt.Sprintf(`{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"demo-chat","choices":[{"index":0,"delta":{"content":"word%d "},"finish_reason":null}],"usage":null}`, i))
	}
	event(`{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}`)
	event("[DONE]")
	answer.WriteString("0\r\n\r\n")
	body := `{"model":"demo-chat","stream":true,"messages":[{"role":"user","content":"hello"}]}`
	compare(b, answer.String(), fmt.Sprintf("POST /v1/infers/%s/v1/chat/completions HTTP/1.1\r\n%sAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", callInfer, benchFields, callKey, len(body), body))
}
