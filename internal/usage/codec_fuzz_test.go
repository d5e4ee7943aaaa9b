package usage

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzDecodeRecord: no bytes make the decoder panic or answer anything but a
// record that encodes and decodes to itself, or ErrCodec.
func FuzzDecodeRecord(f *testing.F) {
	r := sample()
	f.Add(AppendRecord(nil, &r))
	f.Add(AppendRecord(nil, &Record{}))
	f.Add([]byte{})
	f.Add([]byte{codecVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		var first Record
		if err := DecodeRecord(b, &first); err != nil {
			if !errors.Is(err, ErrCodec) {
				t.Fatalf("error %v is not ErrCodec", err)
			}
			return
		}
		if flags, err := PeekFlags(b); err != nil || flags != first.Flags {
			t.Fatalf("peeked %v %v, decoded %v", flags, err, first.Flags)
		}
		for _, s := range []string{first.Node, first.Account, first.Subscription, first.Product, first.API, first.Model, first.Credential, first.Application, first.Region, first.Reason} {
			if len(s) > MaxText {
				return // encoding cuts it
			}
		}
		for _, c := range first.Charges {
			if len(c.Lot) > MaxText {
				return
			}
		}
		var second Record
		if err := DecodeRecord(AppendRecord(nil, &first), &second); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}
