package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestSealIsBoundToItsPlaceAndKey(t *testing.T) {
	t.Parallel()
	b, err := New(bytes.Repeat([]byte{1}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(bytes.Repeat([]byte{2}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	sealed := b.Seal("app_key/A", "the secret")
	if strings.Contains(sealed, "secret") {
		t.Fatalf("%q shows the secret", sealed)
	}
	if again := b.Seal("app_key/A", "the secret"); again == sealed {
		t.Fatal("two seals of one text are equal: the nonce repeats")
	}
	if got, err := b.Open("app_key/A", sealed); err != nil || got != "the secret" {
		t.Fatalf("Open = %q, %v", got, err)
	}
	f := func(name string, box *Box, place, text string) {
		t.Helper()
		if got, err := box.Open(place, text); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: Open = %q, %v, want ErrOpen", name, got, err)
		}
	}
	f("another row", b, "app_key/B", sealed)
	f("another key", other, "app_key/A", sealed)
	f("nothing", b, "app_key/A", "")
	f("no prefix", b, "app_key/A", sealed[len(prefix):])
	f("too short", b, "app_key/A", prefix+"AAAA")
	for i := range sealed {
		bad := []byte(sealed)
		bad[i] ^= 1
		f("flipped bit", b, "app_key/A", string(bad))
	}
}

func TestLoadMakesTheKeyOnceForAllStarters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	boxes := make([]*Box, 8)
	var wg sync.WaitGroup
	for i := range boxes {
		wg.Go(func() {
			b, err := Load("", dir)
			if err != nil {
				t.Error(err)
				return
			}
			boxes[i] = b
		})
	}
	wg.Wait()
	sealed := boxes[0].Seal("p", "x")
	for i, b := range boxes {
		if got, err := b.Open("p", sealed); err != nil || got != "x" {
			t.Errorf("starter %d has another key: %v", i, err)
		}
	}
	st, err := os.Stat(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("key file has mode %o, want 600", st.Mode().Perm())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLoadRefusesAWrongKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load("", dir); !errors.Is(err, ErrKey) {
		t.Errorf("damaged file: %v", err)
	}
	if _, err := Load("short", dir); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "TOLLGATE_MASTER_KEY") {
		t.Errorf("short text: %v", err)
	}
	if _, err := Load("", filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing folder was accepted")
	}
	key := bytes.Repeat([]byte{0xfb}, KeySize)
	for _, text := range []string{hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key)} {
		if got, err := ParseKey(text); err != nil || !bytes.Equal(got, key) {
			t.Errorf("ParseKey(%q) = %x, %v", text, got, err)
		}
	}
}
