package multipart

import (
	"bytes"
	"errors"
	"io"
	stdmultipart "mime/multipart"
	"strings"
	"testing"
)

// FuzzScanner: a body means the same in pieces of any size, a field found is
// what the standard library's reader finds in the body it accepts, and it lies
// in the body where the scanner says.
func FuzzScanner(f *testing.F) {
	const b = "xyz"
	part := func(name, value string) string {
		return "--" + b + "\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	for _, body := range []string{
		part("model", "whisper-1") + "--" + b + "--\r\n",
		part("file", "\x00\r\n--xy\r\n--xyzz") + part("model", "m") + "--" + b + "--",
		part("model", "") + "--" + b + "--\r\ntail",
		part("model", "a") + part("model", "b") + "--" + b + "--",
		"preamble\r\n" + part("model", "m") + "--" + b + "-- \r\n",
		"--" + b + "\r\n\r\nx\r\n--" + b + "--",
		"--" + b + "\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n--" + b + "--",
	} {
		f.Add([]byte(body), uint8(1))
		f.Add([]byte(body), uint8(7))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		scan := func(size int) (Field, bool, error) {
			s := New(b, "model")
			for rest := body; len(rest) > 0; {
				n := min(size, len(rest))
				if err := s.Feed(rest[:n]); err != nil {
					return Field{}, false, err
				}
				rest = rest[n:]
			}
			err := s.End()
			got, ok := s.Field("model")
			return got, ok, err
		}
		whole, ok, err := scan(max(len(body), 1))
		pieces, okPieces, errPieces := scan(int(size)%64 + 1)
		if (err == nil) != (errPieces == nil) {
			t.Fatalf("whole: %v, in pieces: %v", err, errPieces)
		}
		if err != nil {
			return
		}
		if whole != pieces || ok != okPieces {
			t.Fatalf("whole: %+v %v, in pieces: %+v %v", whole, ok, pieces, okPieces)
		}
		if ok && string(body[whole.Begin:whole.End]) != whole.Value {
			t.Fatalf("%q is not at %d to %d", whole.Value, whole.Begin, whole.End)
		}
		// What the standard library reads as another model would be billed as one
		// and served as the other.
		r := stdmultipart.NewReader(bytes.NewReader(body), b)
		found := 0
		for {
			p, err := r.NextRawPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return // it is stricter here
			}
			value, err := io.ReadAll(p)
			if err != nil {
				return
			}
			if p.FormName() == "model" && p.FileName() == "" {
				if found++; !ok || string(value) != whole.Value || found > 1 {
					t.Fatalf("the standard library reads the model %q, the scanner %q (%v)", value, whole.Value, ok)
				}
			}
		}
		if ok && found == 0 && strings.TrimSpace(whole.Value) != "" {
			t.Fatalf("the scanner reads the model %q, the standard library none", whole.Value)
		}
	})
}
