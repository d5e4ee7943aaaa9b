package gateway

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestRenameModel(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"model":"up"}`: `{"model":"x\"y"}`,
		`{ "id" : 1, "model" : "up" , "choices":[{"model":"up"}]}`:     `{ "id" : 1, "model" : "x\"y" , "choices":[{"model":"up"}]}`,
		`{"type":"response.created","response":{"id":1,"model":"up"}}`: `{"type":"response.created","response":{"id":1,"model":"x\"y"}}`,
		`{"message":{"model":"up"},"model":"up"}`:                      `{"message":{"model":"x\"y"},"model":"x\"y"}`,
		`{"model":null}`: `{"model":null}`, `{"a":"model"}`: `{"a":"model"}`, `[]`: `[]`,
	} {
		if got := string(renameModel([]byte(in), `x"y`)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"data: {\"model\":\"up\"}\n\n":                               "data: {\"model\":\"m\"}\n\n",
		"event: e\r\ndata:{\"model\":\"up\",\"n\":1}\r\nid: 1\r\n\r": "event: e\r\ndata:{\"model\":\"m\",\"n\":1}\r\nid: 1\r\n\r",
		": model\n\n":         ": model\n\n",
		"data: [DONE]\n\n":    "data: [DONE]\n\n",
		"data: {\"model\":\n": "data: {\"model\":\n",
	} {
		if got := string(renameEvent([]byte(in), "m")); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzRename: what was valid JSON stays so, and nothing but the names changes.
func FuzzRename(f *testing.F) {
	f.Add(`{"model":"a","response":{"model":"b"}}`, "m")
	f.Add(`{"message":{"model":"\u0061"},"model":"b","x":[1]}`, `"\`)
	f.Fuzz(func(t *testing.T, in, alias string) {
		var before, after map[string]any
		if json.Unmarshal([]byte(in), &before) != nil || !utf8.ValidString(alias) || !utf8.ValidString(in) {
			return
		}
		if strings.Count(strings.ToLower(in), "model") > 1 || strings.Contains(in, `\u`) {
			return // equal keys: which one is meant is anybody's guess
		}
		out := renameModel([]byte(in), alias)
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%s became %s: %v", in, out, err)
		}
		if _, ok := before["model"].(string); ok {
			before["model"] = alias
		}
		for _, k := range []string{"response", "message"} {
			if m, ok := before[k].(map[string]any); ok {
				if _, ok := m["model"].(string); ok {
					m["model"] = alias
				}
			}
		}
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("%s became %s", in, out)
		}
	})
}
