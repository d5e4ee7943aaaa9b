package gateway

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/valyala/fasthttp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestRefusalsGolden holds every answer of the gateway's own, in both
// envelopes, with its headers. Run with -update after a wanted change.
func TestRefusalsGolden(t *testing.T) {
	t.Parallel()
	g := &Gateway{cfg: Config{}.withDefaults()}
	id := []byte(strings.Repeat("0123456789abcdef", 2))
	var b strings.Builder
	for r := ReasonNone + 1; r < numReasons; r++ {
		for _, llm := range []bool{false, true} {
			var ctx fasthttp.RequestCtx
			g.writeRefusal(&ctx, refusal{reason: r}, llm, id)
			var lines []string
			for k, v := range ctx.Response.Header.All() {
				lines = append(lines, fmt.Sprintf("  %s: %s\n", k, v))
			}
			slices.Sort(lines)
			kind := "api"
			if llm {
				kind = "llm"
			}
			fmt.Fprintf(&b, "%s %s %d\n%s  %s\n", r, kind, ctx.Response.StatusCode(), strings.Join(lines, ""), ctx.Response.Body())
		}
	}
	const file = "testdata/refusals.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("run with -update if this is wanted:\n%s", diff)
	}
}

// TestReasonsAreWhole walks the reasons: each has both envelopes, which are
// valid JSON and follow the rules of gateway-wire.
func TestReasonsAreWhole(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for r := ReasonNone + 1; r < numReasons; r++ {
		w := &table[r]
		if w.reason == "" || w.msg == "" || len(w.code) != 4 || w.status < 400 || w.llmStatus < 400 || w.llmType == "" || w.llmCode == "" {
			t.Errorf("reason %d %+v lacks a part", r, *w)
		}
		if seen[w.reason] {
			t.Errorf("two reasons are called %q", w.reason)
		}
		seen[w.reason] = true
		if w.retryAfter > 5 {
			t.Errorf("%s: Retry-After %d: openai-node sleeps for all of it", w.reason, w.retryAfter)
		}
		if w.noRetry && w.retryAfter > 0 {
			t.Errorf("%s: asks to retry and not to", w.reason)
		}
		if (w.llmStatus == 401) != (w.llmCode == "invalid_api_key") {
			t.Errorf("%s: 401 and invalid_api_key belong together (KEY-11)", w.reason)
		}
		if w.llmStatus == 429 && !w.noRetry && w.retryAfter == 0 {
			t.Errorf("%s: a 429 says when to retry, or that it is no use", w.reason)
		}
	}
	if Reason(250).String() != "unknown" {
		t.Error("an unknown reason has a name")
	}
}

// TestEnvelopeEscapes: whatever the text, the envelope is JSON that says it.
func TestEnvelopeEscapes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", `a "b" \ c`, "line\nbreak\ttab\x00", "中文 <b>&amp;</b>", "\xff\xfe"} {
		for _, llm := range []bool{false, true} {
			b := appendEnvelope(nil, llm, "APIGW.", &table[ReasonBadRequest], text, text, []byte("id"))
			var v struct {
				Msg   string `json:"error_msg"`
				Error struct {
					Message string  `json:"message"`
					Param   *string `json:"param"`
				} `json:"error"`
			}
			if err := json.Unmarshal(b, &v); err != nil {
				t.Fatalf("%q: %v: %s", text, err, b)
			}
			want := strings.ToValidUTF8(text, "\ufffd")
			if strings.ContainsRune(want, '\ufffd') {
				continue // how many signs stand for broken bytes does not matter
			}
			got := v.Msg
			if llm {
				got = v.Error.Message
				if (text == "") != (v.Error.Param == nil) || text != "" && *v.Error.Param != text {
					t.Errorf("param of %q: %v", text, v.Error.Param)
				}
			}
			if got != want {
				t.Errorf("%q became %q", text, got)
			}
		}
	}
}
