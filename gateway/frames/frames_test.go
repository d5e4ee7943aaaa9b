package frames

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// masked returns a frame as a client sends it.
func masked(first byte, payload string) []byte {
	b := Append(nil, 0, []byte(payload))
	b[0] = first
	head := len(b) - len(payload)
	b[1] |= 0x80
	key := []byte{1, 2, 3, 4}
	out := append(append(append([]byte{}, b[:head]...), key...), payload...)
	for i := range payload {
		out[head+4+i] ^= key[i&3]
	}
	return out
}

func TestNext(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("x"), 70_000))
	for _, tt := range []struct {
		name   string
		in     []byte
		client bool
		want   []string
		err    error
	}{
		{"text", Append(nil, Text, []byte("hi")), false, []string{"hi"}, io.EOF},
		{"masked", masked(0x81, "hello"), true, []string{"hello"}, io.EOF},
		{"lengths", append(Append(nil, Text, []byte(long[:300])), Append(nil, Binary, []byte(long))...), false, []string{long[:300], long}, io.EOF},
		{"a message in parts with a ping between", append(append(masked(0x01, "a"), masked(0x89, "p")...), masked(0x80, "b")...), true, []string{"a", "p", "b"}, io.EOF},
		{"cut", masked(0x81, "hello")[:7], true, nil, io.ErrUnexpectedEOF},
		{"not masked", Append(nil, Text, nil), true, nil, ErrProtocol},
		{"masked by a server", masked(0x81, ""), false, nil, ErrProtocol},
		{"reserved bit", masked(0xc1, ""), true, nil, ErrProtocol},
		{"opcode", masked(0x83, ""), true, nil, ErrProtocol},
		{"continuation of nothing", masked(0x80, ""), true, nil, ErrProtocol},
		{"two messages at once", append(masked(0x01, ""), masked(0x81, "")...), true, []string{""}, ErrProtocol},
		{"a ping in parts", masked(0x09, ""), true, nil, ErrProtocol},
		{"a long ping", masked(0x89, long[:126]), true, nil, ErrProtocol},
		{"too big", masked(0x82, long+long), true, nil, ErrTooBig},
		{"too big in parts", append(masked(0x02, long), masked(0x80, long)...), true, []string{long}, ErrTooBig},
	} {
		for _, one := range []bool{false, true} {
			var in io.Reader = bytes.NewReader(tt.in)
			if one {
				in = iotest.OneByteReader(in)
			}
			r := NewReader(in, tt.client, 100_000)
			var got []string
			var raw []byte
			var err error
			for {
				var f Frame
				if f, err = r.Next(); err != nil {
					break
				}
				got = append(got, string(f.Payload))
				raw = append(raw, f.Raw...)
			}
			if !errors.Is(err, tt.err) || len(got) != len(tt.want) {
				t.Errorf("%s: %d frames, %v", tt.name, len(got), err)
				continue
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("%s: frame %d is %.20q", tt.name, i, got[i])
				}
			}
			if err == io.EOF && !bytes.Equal(raw, tt.in) {
				t.Errorf("%s: the frames do not pass as they came", tt.name)
			}
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	for _, client := range []bool{false, true} {
		b := AppendClose(nil, StatusPolicy, "dry")
		if client {
			b = AppendMaskedClose(nil, StatusPolicy, "dry")
		}
		f, err := NewReader(bytes.NewReader(b), client, 1000).Next()
		if err != nil || f.Opcode != Close || string(f.Payload) != "\x03\xf0dry" {
			t.Errorf("%+v %v", f, err)
		}
	}
}

// FuzzNext: any bytes are read without a panic, what is read is what came, and
// no more than the limit is kept.
func FuzzNext(f *testing.F) {
	f.Add(masked(0x81, "hello"), true)
	f.Add(Append(nil, Text, bytes.Repeat([]byte("x"), 300)), false)
	f.Add([]byte{0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false)
	f.Fuzz(func(t *testing.T, in []byte, client bool) {
		r := NewReader(bytes.NewReader(in), client, 1<<10)
		at := 0
		for {
			fr, err := r.Next()
			if err != nil {
				return
			}
			if !bytes.HasPrefix(in[at:], fr.Raw) || len(fr.Payload) > 1<<10 {
				t.Fatalf("%x at %d of %x", fr.Raw, at, in)
			}
			at += len(fr.Raw)
		}
	})
}
