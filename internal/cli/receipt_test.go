package cli

import (
	"strings"
	"testing"

	"tollgate/internal/receipt"
	"tollgate/internal/usage"
)

func TestVerifyReceipt(t *testing.T) {
	t.Parallel()
	rec := usage.Record{Subscription: "SUB", Status: 200, Flags: usage.Counted, Units: usage.Units{usage.Call: 1}}
	text := string(receipt.NewKey("K", "tgr_key").Append(nil, &rec))
	f := func(name, key, in string, args []string, wantErr string, want ...string) {
		t.Helper()
		var out strings.Builder
		err := (&VerifyReceipt{Key: key, Receipt: args}).run(&out, strings.NewReader(in))
		if wantErr == "" && err != nil || wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)) {
			t.Errorf("%s: error %v, want %q", name, err, wantErr)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: %q lacks %q", name, out.String(), w)
			}
		}
	}
	f("an argument", "tgr_key", "", []string{text}, "", "genuine", "SUB", "call:1")
	f("a pasted header line", "tgr_key", "", []string{"x-tollgate-receipt: " + text}, "", "genuine")
	f("lines of a file", "tgr_key", text+"\r\n"+text+"\n", nil, "", "receipt 2")
	f("a changed one among others", "tgr_key", text+"\n"+strings.Replace(text, "call:1", "call:2", 1), nil, "1 of 2", "NOT GENUINE")
	f("another key", "tgr_other", "", []string{text}, "1 of 1")
	f("nothing", "tgr_key", "\n", nil, "no receipt")
}
