package usage

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tollgate/internal/ids"
)

// sample is a record of a streamed chat call, of usual size.
func sample() Record {
	at := time.Date(2026, 11, 1, 8, 30, 0, 123_000_000, time.UTC)
	var u, over Units
	u[Token], u[InputToken], u[OutputToken] = 1234, 1000, 234
	over[Token] = 34
	return Record{
		ID: ids.Request{0x01, 0x9a, 0x3c, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, Time: at, Finished: at.Add(1530 * time.Millisecond),
		Node: "gw-1", Account: "01K9ACCOUNT0000000000000AA", Subscription: "01K9SUBSCR1PT10N00000000AA",
		Product: "01K9PR0DVCT0000000000000AA", API: "chat.completions", Model: "demo-chat",
		Credential: "01K9KEY000000000000000000A", Region: "cn-north-4",
		Auth: AuthAPIKey, Rule: Meter3, Basis: BasisUpstream, Flags: Counted | Streamed, Status: 200,
		Units: u, Cached: 512, Reasoning: 20, Overrun: over,
		Charges: []Charge{{Lot: "01K9L0T0000000000000000000", Unit: Token, Amount: 1200, Bucket: at.UnixMilli()}},
		Total:   1530 * time.Millisecond, Upstream: 1529 * time.Millisecond, FirstByte: 98 * time.Millisecond,
		BytesIn: 812, BytesOut: 40_000,
	}
}

func anyRecord(t *rapid.T) Record {
	instant := rapid.Custom(func(t *rapid.T) time.Time {
		ms := rapid.Int64Range(-62_135_596_800_000, 253_402_300_799_999).Draw(t, "ms")
		return time.UnixMilli(ms).UTC() // the least is the zero time
	})
	text := rapid.StringN(0, 60, MaxText)
	units := rapid.Custom(func(t *rapid.T) (u Units) {
		for i := range u {
			if rapid.Bool().Draw(t, "some") {
				u[i] = rapid.Int64().Draw(t, "n")
			}
		}
		return u
	})
	r := Record{
		Time: instant.Draw(t, "time"), Finished: instant.Draw(t, "finished"),
		Node: text.Draw(t, "node"), Account: text.Draw(t, "account"), Subscription: text.Draw(t, "subscription"),
		Product: text.Draw(t, "product"), API: text.Draw(t, "api"), Model: text.Draw(t, "model"),
		Credential: text.Draw(t, "credential"), Application: text.Draw(t, "application"), Region: text.Draw(t, "region"),
		Auth: Auth(rapid.Byte().Draw(t, "auth")), Rule: Rule(rapid.Byte().Draw(t, "rule")), Basis: Basis(rapid.Byte().Draw(t, "basis")),
		Flags: Flags(rapid.Uint16().Draw(t, "flags")), Status: int(rapid.Int32().Draw(t, "status")), Reason: text.Draw(t, "reason"),
		Units: units.Draw(t, "units"), Overrun: units.Draw(t, "overrun"),
		Cached: rapid.Int64().Draw(t, "cached"), Reasoning: rapid.Int64().Draw(t, "reasoning"),
		Total: time.Duration(rapid.Int64().Draw(t, "total")), Upstream: time.Duration(rapid.Int64().Draw(t, "upstream")),
		FirstByte: time.Duration(rapid.Int64().Draw(t, "first")),
		BytesIn:   rapid.Int64().Draw(t, "in"), BytesOut: rapid.Int64().Draw(t, "out"),
	}
	copy(r.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	r.Charges = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Charge {
		return Charge{
			Lot: text.Draw(t, "lot"), Unit: Unit(rapid.IntRange(0, int(NumUnits)-1).Draw(t, "unit")),
			Amount: rapid.Int64().Draw(t, "amount"), Bucket: rapid.Int64().Draw(t, "bucket"),
		}
	}), 0, 5).Draw(t, "charges")
	if len(r.Charges) == 0 {
		r.Charges = nil
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want, other := anyRecord(t), anyRecord(t)
		b := AppendRecord([]byte("kept"), &want)
		if string(b[:4]) != "kept" {
			t.Fatal("AppendRecord changed what was before it")
		}
		// Into a fresh record, and into one that holds another already.
		var fresh Record
		for _, got := range []*Record{&fresh, &other} {
			if err := DecodeRecord(b[4:], got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, *got); diff != "" {
				t.Fatalf("record changed (-want +got):\n%s", diff)
			}
		}
	})
}

// TestRecordGolden keeps the format: a journal written today is read by every
// later version. A change of this text needs a new version of the codec.
func TestRecordGolden(t *testing.T) {
	t.Parallel()
	const golden = "01019a3c0102030405060708090a0b0c0df7ced6e3b268f417010303010390030467772d311a30314b394143434f554e" +
		"543030303030303030303030303041411a30314b3953554253435231505431304e303030303030303041411a30314b39" +
		"5052304456435430303030303030303030303030414110636861742e636f6d706c6574696f6e730964656d6f2d636861" +
		"741a30314b394b455930303030303030303030303030303030303041000a636e2d6e6f7274682d34000ea413d00fd403" +
		"0244800828011a30314b394c30543030303030303030303030303030303030303001e012f6ced6e3b26880ca8fb30b80" +
		"c195b20b80f2ba5dd80c80f104"
	r := sample()
	if got := hex.EncodeToString(AppendRecord(nil, &r)); got != golden {
		t.Fatalf("the format changed:\n got %s\nwant %s", got, golden)
	}
	b, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := DecodeRecord(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	t.Parallel()
	r := sample()
	whole := AppendRecord(nil, &r)
	f := func(name string, b []byte, hint string) {
		t.Helper()
		var got Record
		err := DecodeRecord(b, &got)
		if !errors.Is(err, ErrCodec) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: error %v, want ErrCodec with %q", name, err, hint)
		}
	}
	for n := range len(whole) {
		f("cut short", whole[:n], "")
	}
	newer := append([]byte(nil), whole...)
	newer[0] = 2
	f("a later version", newer, "version 2")
	u := Record{Charges: []Charge{{Unit: NumUnits, Amount: 1}}}
	f("an unknown unit in a charge", AppendRecord(nil, &u), "unit 7")
	// The units of an empty record come after version, id, time, finished,
	// three kinds, flags, status and ten texts.
	e := AppendRecord(nil, &Record{})
	e[1+16+1+2+3+1+1+10] = 0x80 // makes the number two bytes long
	f("an unknown unit", append(e[:1+16+1+2+3+1+1+11], append([]byte{1}, e[1+16+1+2+3+1+1+11:]...)...), "unit 7")
	f("a field of tag 0", append(append([]byte(nil), whole...), 0, 0), "tag 0")
	f("a boot that is no number", append(append([]byte(nil), whole...), 1, 2, 0x80, 0x80), "boot")
	f("a field cut short", append(append([]byte(nil), whole...), 1, 2, 0), "beyond the end")
}

// TestDecodeRecordPassesOverLaterFields: a node that was rolled back reads
// what the newer version had written.
func TestDecodeRecordPassesOverLaterFields(t *testing.T) {
	t.Parallel()
	want := sample()
	b := AppendRecord(nil, &want)
	b = binary.AppendUvarint(b, 7)
	b = binary.AppendUvarint(b, 3)
	b = append(b, "new"...)
	b = append(b, 9, 0)
	var got Record
	if err := DecodeRecord(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// TestLongTextIsCut: no client can make a record that the journal refuses.
func TestLongTextIsCut(t *testing.T) {
	t.Parallel()
	r := Record{Model: strings.Repeat("模", 10_000), Reason: strings.Repeat("\x80", 10_000)}
	b := AppendRecord(nil, &r)
	if len(b) > 2*MaxText+64 {
		t.Fatalf("the record takes %d bytes", len(b))
	}
	var got Record
	if err := DecodeRecord(b, &got); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("模", MaxText/3); got.Model != want || !utf8.ValidString(got.Model) {
		t.Fatalf("model = %q", got.Model)
	}
}

func BenchmarkAppendRecord(b *testing.B) {
	r := sample()
	dst := AppendRecord(nil, &r)
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendRecord(dst[:0], &r)
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	r := sample()
	src := AppendRecord(nil, &r)
	var got Record
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if err := DecodeRecord(src, &got); err != nil {
			b.Fatal(err)
		}
	}
}
