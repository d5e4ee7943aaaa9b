package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// FuzzFields holds the strict scanner against the server's parser: what both
// accept they read alike, so that what is forwarded is what was authenticated.
func FuzzFields(f *testing.F) {
	for _, s := range []string{
		"Host: a\r\nX-A: 1\r\n\r\n", "host: a\r\nX-A:  1 \t\r\nx-a: 2\r\nCookie: a=b; c\r\n\r\n", "Host: a\r\nX-A: 1\r\n folded\r\n\r\n",
		"Host: a\nX: y\n\n", "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "Host: a\r\nX Y: 1\r\n\r\n", "Host: a\r\n: 1\r\n\r\n",
		"Host: a\r\nConnection: close, x\r\nConnection: close\r\n\r\n", "\r\n", "Host: a\r\n\r\nX: behind\r\n\r\n", "Host: a\r\nX: a\rb\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		var h fasthttp.RequestHeader
		text := append([]byte("POST /x HTTP/1.1\r\n"), block...)
		if err := h.Read(bufio.NewReaderSize(bytes.NewReader(text), 1<<16)); err != nil {
			return
		}
		raw := bytes.Clone(h.RawHeaders())
		fields, err := parseFields(nil, raw)
		if err != nil {
			return
		}
		byName := map[string][]string{}
		var order []string
		for i := range fields {
			fd := &fields[i]
			name := strings.ToLower(string(fd.name))
			if byName[name] == nil {
				order = append(order, name)
			}
			byName[name] = append(byName[name], string(fd.value))
		}
		for _, name := range order {
			values := byName[name]
			switch name {
			case "trailer", "connection", "content-length", "transfer-encoding":
				continue // kept by the server in its own way; never copied
			case "host", "content-type", "user-agent":
				values = values[len(values)-1:]
				if values[0] == "" {
					continue
				}
			}
			var got []string
			for _, v := range h.PeekAll(name) {
				got = append(got, strings.Trim(string(v), " \t"))
			}
			if fmt.Sprint(got) != fmt.Sprint(values) {
				t.Fatalf("%q: %s is %q to the server, %q to the scanner", block, name, got, values)
			}
		}
		// The other way round: the server has no field the scanner has not.
		for k := range h.All() {
			if name := strings.ToLower(string(k)); byName[name] == nil {
				t.Fatalf("%q: the server sees %s", block, k)
			}
		}
		if n := len(byName["content-length"]) + len(byName["transfer-encoding"]); n > 1 {
			t.Fatalf("%q: framed %d times", block, n)
		}
		if te := byName["transfer-encoding"]; len(te) > 0 && h.ContentLength() != -1 {
			t.Fatalf("%q: %q is not chunked to the server", block, te)
		}
	})
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]kind{
		"connection": connection, "te": hopByHop, "trailer": hopByHop, "expect": hopByHop, "keep-alive": hopByHop, "http2-settings": hopByHop,
		"host": single, "user-agent": single, "content-type": single, "content-length": framing, "transfer-encoding": framing,
		"authorization": credential, "x-apig-appcode": credential, "x-sdk-date": credential, "x-sdk-anything": credential, "x-sdk-": plain, "x-sdkdate": plain,
		"x-request-id": ours, "x-customer-id": ours, "x-forwarded-for": ours, "x-forwarded-new": ours, "x-forwarded-": plain, "forwarded": ours, "x-real-ip": ours,
		"x-mock-status": mock, "x-mock": plain, "x-api-key": apiKeyField, "accept-encoding": acceptEncoding, "content-encoding": contentEncoding,
		"accept": plain, "cookie": plain, "x": plain, "": plain, "a-name-longer-than-every-known-one-of-them-all": plain,
	} {
		for _, spelling := range []string{name, strings.ToUpper(name), strings.ReplaceAll(name, "-", "_")} {
			if got := classify([]byte(spelling)); got != want {
				t.Errorf("%q is %d, want %d", spelling, got, want)
			}
		}
	}
}
