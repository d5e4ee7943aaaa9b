package directory

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
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

// TestOpenRowByRow: a snapshot is read row by row as the package's types say,
// with every field of each, and a damaged one is an error.
func TestOpenRowByRow(t *testing.T) {
	t.Parallel()
	var s Snapshot
	fill(reflect.ValueOf(&s).Elem())
	for i := range 5 { // the key block's
		s.APIKeys = append(s.APIKeys, APIKey{ID: fmt.Sprint("plain", i), Account: fmt.Sprint("account", i%2), Hash: bytes.Repeat([]byte{byte(i)}, 32)})
	}
	sealed, err := Seal(&s, "secret")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Open(sealed, "secret")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&s, got); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{``, `[]`, `{"products":7}`, `{"api_keys":[{"id":"a"}`, `{"api_keys":[{"id":7}]}`, `{"version":"x"}`, `{"products":[]`} {
		if s, err := decode(strings.NewReader(text)); err == nil {
			t.Errorf("%s is read as %+v", text, s)
		}
	}
	if s, err := decode(strings.NewReader(`{"version":7,"later":[1,{}],"products":null,"api_keys":[]}`)); err != nil || s.Version != 7 {
		t.Errorf("%+v, %v: want version 7, the unknown field passed over", s, err)
	}
}

// fill sets every field of v to something other than its zero value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		switch v.Interface().(type) {
		case time.Time:
			v.Set(reflect.ValueOf(time.Unix(1.7e9, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(3)
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(0.5)
	}
}

// TestOldForm: a snapshot sealed before the key block is still opened.
func TestOldForm(t *testing.T) {
	t.Parallel()
	aead, err := sealCipher("secret")
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	want := manyKeys(3)
	if err := errors.Join(json.NewEncoder(zw).Encode(want), zw.Close()); err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, aead.NonceSize())
	sealed := aead.Seal(append([]byte("TGDIR1"), nonce...), nonce, packed.Bytes(), []byte("TGDIR1"))
	got, err := Open(sealed, "secret")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzKeyBlock: no block, however damaged, makes the reader panic or take much
// memory, and what it reads is written as it was.
func FuzzKeyBlock(f *testing.F) {
	block, _ := splitKeys(manyKeys(3).APIKeys)
	for i := range block {
		f.Add(block[:i])
	}
	f.Add(block)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, in []byte) {
		keys, err := appendKeys(nil, in)
		if err != nil {
			return
		}
		again, rest := splitKeys(keys)
		if got, err := appendKeys(nil, again); err != nil || len(rest) > 0 || !cmp.Equal(got, keys) {
			t.Errorf("%v, %v: want %v", got, err, keys)
		}
	})
}
