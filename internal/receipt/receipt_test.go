package receipt

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

const secret = "tgr_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

func sample() usage.Record {
	at := time.Date(2026, 11, 1, 8, 30, 0, 123_000_000, time.UTC)
	r := usage.Record{
		ID: ids.Request{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, Time: at, Finished: at.Add(1530 * time.Millisecond),
		Account: "01K9ACCOUNT0000000000000AA", Subscription: "01K9SUBSCR1PT10N00000000AA", Product: "01K9PR0DVCT0000000000000AA",
		Status: 200, Rule: usage.Meter3, Basis: usage.BasisUpstream, Flags: usage.Counted,
		Charges: []usage.Charge{{Lot: "01K9L0T0000000000000000001", Unit: usage.Token, Amount: 40}, {Lot: "a;b=c,d:e", Unit: usage.Token, Amount: 6}},
	}
	r.Units[usage.Call], r.Units[usage.Token], r.Overrun[usage.Token] = 1, 50, 4
	return r
}

// The form is published: it does not change.
func TestGolden(t *testing.T) {
	t.Parallel()
	r := sample()
	got := string(NewKey("01K9KEY", secret).Append([]byte("x"), &r))
	const want = "xv1;id=0102030405060708090a0b0c0d0e0f10;key=01K9KEY;sub=01K9SUBSCR1PT10N00000000AA;product=01K9PR0DVCT0000000000000AA;" +
		"at=2026-11-01T08:30:00.123Z;done=2026-11-01T08:30:01.653Z;status=200;counted=1;rule=METER-3;basis=upstream;" +
		"units=call:1,token:50;lots=01K9L0T0000000000000000001:token:40,a%3Bb%3Dc%2Cd%3Ae:token:6;over=token:4;sig="
	if !strings.HasPrefix(got, want) {
		t.Fatal(cmp.Diff(want, got))
	}
}

// openssl, which shares no code with us, comes to the same signature by the
// line that is published, for keys shorter and longer than a block.
func TestOpenSSLAgrees(t *testing.T) {
	t.Parallel()
	r := sample()
	for _, key := range []string{"k", secret, strings.Repeat("long", 30)} {
		text := string(NewKey("01K9KEY", key).Append(nil, &r))
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `printf %s "${RECEIPT%;sig=*}" | openssl dgst -sha256 -hmac "$KEY"`)
		cmd.Env = append(cmd.Environ(), "RECEIPT="+text, "KEY="+key)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if sig := text[len(text)-64:]; !strings.HasSuffix(strings.TrimSpace(string(out)), sig) {
			t.Errorf("openssl says %s, the receipt %s", out, sig)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	r := sample()
	k := NewKey("01K9KEY", secret)
	text := string(k.Append(nil, &r))
	fields, err := k.Verify(text)
	if err != nil {
		t.Fatal(err)
	}
	if fields[0] != (Field{"v", "1"}) || fields[1].Value != r.ID.String() || fields[len(fields)-1].Name != "sig" {
		t.Errorf("fields %v", fields)
	}
	for i := range text {
		bad := text[:i] + string(text[i]^1) + text[i+1:]
		if _, err := k.Verify(bad); err == nil {
			t.Errorf("a changed byte at %d passes: %s", i, bad)
		}
	}
	if _, err := NewKey("01K9KEY", secret+"x").Verify(text); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	for _, bad := range []string{"", "v1", "v2" + text[2:], text[:len(text)-1], strings.Replace(text, "sub=", "sub", 1)} {
		if _, err := k.Verify(bad); !errors.Is(err, ErrForm) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestAppendTime(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{{}, time.UnixMilli(1), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC), time.Date(12345, 1, 2, 3, 4, 5, 6e6, time.UTC), time.Date(2026, 2, 28, 1, 2, 3, 4e6, time.FixedZone("x", 8*3600))} {
		if got, want := string(appendTime(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	r := sample()
	r.Charges = r.Charges[:1]
	k := NewKey("01K9KEY", secret)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = k.Append(buf[:0], &r)
	}
}
