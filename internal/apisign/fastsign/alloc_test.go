//go:build !race

package fastsign

import (
	"bufio"
	"fmt"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"tollgate/internal/apisign"
)

// request returns a signed request as a fasthttp server would have read it.
func request(tb testing.TB) *fasthttp.RequestCtx {
	tb.Helper()
	r := apisign.Request{
		Method: []byte("POST"), Path: []byte("/v1/weather"), Query: []byte("city=Bonn&lang=zh"), Host: []byte("h"),
		Headers: listed{{"X-Sdk-Date", date}, {"Content-Type", "application/json"}, {"X-Stage", "RELEASE"}}, Body: []byte("{}"),
	}
	auth, err := apisign.AppendAuthorization(nil, &r, key, []byte(secret), []string{"content-type", "x-stage"})
	if err != nil {
		tb.Fatal(err)
	}
	var ctx fasthttp.RequestCtx
	text := fmt.Sprintf("POST /v1/weather?city=Bonn&lang=zh HTTP/1.1\r\nHost: h\r\nX-Sdk-Date: %s\r\nContent-Type: application/json\r\n"+
		"User-Agent: x\r\nAccept: */*\r\nX-Stage: RELEASE\r\nAuthorization: %s\r\nContent-Length: 2\r\n\r\n{}", date, auth)
	if err := ctx.Request.Read(bufio.NewReader(strings.NewReader(text))); err != nil {
		tb.Fatal(err)
	}
	return &ctx
}

func TestAllocations(t *testing.T) {
	ctx := request(t)
	if err := verify(ctx); err != nil {
		t.Fatal(err)
	}
	key := []byte(secret)
	n := testing.AllocsPerRun(200, func() {
		v := apisign.Acquire()
		defer apisign.Release(v)
		var r apisign.Request
		Fill(&r, ctx)
		r.Body = ctx.Request.Body()
		var p apisign.Parsed
		if _, err := v.FromHeaders(&p, r.Headers); err != nil {
			t.Error(err)
		}
		if err := v.Verify(&p, &r, key, now, 0); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	ctx := request(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := verify(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
