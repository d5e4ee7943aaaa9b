package gateway_test

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// refused is the body of a refusal in either envelope.
type refused struct {
	Error struct {
		Message, Type, Code string
	}
	ErrorCode string `json:"error_code"`
	ErrorMsg  string `json:"error_msg"`
}

func envelope(t testing.TB, body string) (e refused) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return e
}

func body(s string) io.Reader { return strings.NewReader(s) }

// total sums a counter over the labels that are not named.
func (f *fixture) total(name, label, value string) (sum float64) {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, mf := range families {
		if mf.GetName() != name {
			continue
		}
		for _, m := range mf.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}
