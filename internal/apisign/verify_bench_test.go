package apisign

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"
)

// byteHeaders are header fields as a server holds them: found without copying.
type byteHeaders [][2][]byte

func (h byteHeaders) AppendValues(dst [][]byte, name []byte) [][]byte {
	for _, f := range h {
		if len(f[0]) == len(name) && bytes.EqualFold(f[0], name) {
			dst = append(dst, f[1])
		}
	}
	return dst
}

func asBytes(h HTTPHeaders) byteHeaders {
	var b byteHeaders
	for k, values := range h {
		for _, v := range values {
			b = append(b, [2][]byte{[]byte(k), []byte(v)})
		}
	}
	return b
}

// verifyOnce does what a gateway does for one call.
func verifyOnce(r *Request, secret []byte, now time.Time) error {
	v := Acquire()
	defer Release(v)
	var p Parsed
	if _, err := v.FromHeaders(&p, r.Headers); err != nil {
		return err
	}
	return v.Verify(&p, r, secret, now, 0)
}

// BenchmarkVerify measures a call with a 200-byte body, ours beside the
// vendor's sample in spirit.
func BenchmarkVerify(b *testing.B) {
	body := strings.Repeat("x", 200)
	headers := http.Header{
		"Content-Type": {"application/json"}, "User-Agent": {"huaweicloud-usdk-go/3.0"},
		"X-Stage": {"RELEASE"}, "Accept": {"*/*"}, "X-Request-Id": {"36969153b5ab7c47180fd155f1481012"},
	}
	r, auth := signed(b, "POST", "/v1/weather/now?city=Bonn&units=metric&lang=zh", body, headers, "content-type", "x-stage")
	h := http.Header(r.Headers.(HTTPHeaders))
	h.Set(HeaderAuthorization, auth)
	secret := []byte(testSecret)

	b.Run("apisign", func(b *testing.B) {
		r := r
		r.Headers = asBytes(r.Headers.(HTTPHeaders))
		b.ReportAllocs()
		for b.Loop() {
			if err := verifyOnce(&r, secret, testNow); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("naive", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !naiveVerify("POST", string(r.Path), string(r.Query), string(r.Host), h, r.Body, testSecret) {
				b.Fatal("refused")
			}
		}
	})
	b.Run("mismatch", func(b *testing.B) { // all six readings
		r := r
		r.Headers = asBytes(r.Headers.(HTTPHeaders))
		r.Path, r.Query = []byte("/v1/weather%2Fnow"), []byte("city=Bonn+Beuel")
		b.ReportAllocs()
		for b.Loop() {
			if err := verifyOnce(&r, secret, testNow); err != ErrMismatch {
				b.Fatal(err)
			}
		}
	})
}
