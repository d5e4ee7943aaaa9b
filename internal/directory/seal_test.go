package directory

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/usage"
)

func TestSealRoundTrip(t *testing.T) {
	t.Parallel()
	in := &Snapshot{
		Version: 7, Made: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Pepper: []byte("pepper"),
		Subscriptions: []Subscription{{ID: "S", Units: []usage.Unit{usage.Call, usage.Token}, State: SubscriptionActive}},
		AppKeys:       []AppKey{{ID: "K", Key: "key", Secret: "app-secret-in-clear"}},
	}
	sealed, err := Seal(in, "feed secret")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("app-secret-in-clear")) {
		t.Fatal("the sealed snapshot shows a secret")
	}
	out, err := Open(sealed, "feed secret")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(in, out); d != "" {
		t.Fatal(d)
	}
	if _, err := Open(sealed, "another"); !errors.Is(err, ErrSeal) {
		t.Fatalf("wrong secret: %v", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := Open(bad, "feed secret"); !errors.Is(err, ErrSeal) {
			t.Fatalf("bit flipped at %d: %v", i, err)
		}
	}
}

func TestSecretPrintsMasked(t *testing.T) {
	t.Parallel()
	k := AppKey{Key: "key", Secret: "visible"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, k); bytes.Contains([]byte(s), []byte("visible")) {
			t.Errorf("%s prints the secret: %s", verb, s)
		}
	}
}
