package gateway_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// chatTokens is a streamed call to the product sold by tokens.
func (f *fixture) chatTokens() reply {
	f.t.Helper()
	return f.do("POST", "/v1/chat/completions", helloStream, "Authorization", "Bearer "+tokenKey)
}

// promptTokens is the estimate of helloStream's prompt, as it goes upstream.
const promptTokens = int64(len(helloStream)+len(`"stream_options":{"include_usage":true},`)+3) / 4

const quotaError = `{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}`

// TestStreamRunsDry: a stream whose package is used up gets what it paid for,
// an error that every SDK raises, and its proper end; the upstream is closed.
func TestStreamRunsDry(t *testing.T) {
	t.Parallel()
	const has = 20 // output tokens the package has
	var events []string
	for i := range 500 {
		events = append(events, textChunk(i))
	}
	for _, whole := range []bool{false, true} {
		list := slices.Concat(events, []string{usageChunk, doneEvent})
		if whole { // all of it comes in one read or two
			list = []string{strings.Join(list, "")}
		}
		f := startAt(t, sse(t, list, nil), func(c *gateway.Config, _ *directory.Snapshot) {
			c.HoldDefault, c.HoldSlice = 5, 8
		})
		f.left["S-TOKEN"] = promptTokens + has
		r := f.chatTokens()
		want := strings.Join(events[:has], "") + "data: {\"error\":" + quotaError
		if r.StatusCode != 200 || !strings.HasPrefix(r.body, want) || !strings.HasSuffix(r.body, "\"}\n\ndata: [DONE]\n\n") {
			t.Fatalf("whole %v: %d\n%s\nwant\n%s", whole, r.StatusCode, r.body, want)
		}
		rec := f.record(0)
		if rec.Units[usage.Token] != promptTokens+has || rec.Units[usage.OutputToken] != has || rec.Units[usage.Call] != 1 || rec.Basis != usage.BasisCounted ||
			!rec.Has(usage.Counted|usage.Incomplete|usage.Streamed) || rec.Reason != "exhausted" {
			t.Errorf("whole %v: %+v", whole, rec)
		}
		f.wantCounter(`tollgate_rejections_total{reason="exhausted"} 1`)
		// The next one is refused at once.
		if r := f.chatTokens(); r.StatusCode != 429 {
			t.Errorf("after the end: %d %s", r.StatusCode, r.body)
		}
	}
}

// wantCounter holds that a metric stands as text says.
func (f *fixture) wantCounter(text string) {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	name, rest, _ := strings.Cut(text, "{")
	for _, m := range families {
		if m.GetName() != name {
			continue
		}
		for _, v := range m.GetMetric() {
			var labels []string
			for _, l := range v.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if strings.Join(labels, ",")+"} "+fmt.Sprint(v.GetCounter().GetValue()) == rest {
				return
			}
		}
	}
	f.t.Errorf("no metric %s", text)
}

// TestDryStreamOfOtherFamilies: a stream that names its events ends with an
// error event in its family's form, and without [DONE], which it does not know.
func TestDryStreamOfOtherFamilies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, path, body string
		event            func(i int) string
		first, last      string
	}{
		{
			"responses", "/v1/responses", `{"model":"demo-chat","stream":true,"input":"x"}`,
			func(i int) string {
				return fmt.Sprintf("event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":%d,\"delta\":\"w\"}\n\n", i)
			},
			"event: error\ndata: {\"type\":\"error\",\"code\":\"insufficient_quota\",\"message\":\"You exceeded your current quota, please check your plan and billing details.\",\"param\":null,\"sequence_number\":4,\"error\":" + quotaError,
			"\"}\n\n",
		},
		{
			"messages", "/v1/messages", `{"model":"demo-chat","stream":true}`,
			func(i int) string {
				return fmt.Sprintf("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":%d,\"delta\":{\"type\":\"text_delta\",\"text\":\"w\"}}\n\n", i)
			},
			"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"You exceeded your current quota", "\"}\n\n",
		},
		{
			"completions", "/v1/completions", `{"model":"demo-chat","stream":true,"prompt":"x"}`,
			func(i int) string { return fmt.Sprintf("data: {\"choices\":[{\"index\":%d,\"text\": \"w\"}]}\n\n", i) },
			"data: {\"error\":" + quotaError, "\"}\n\ndata: [DONE]\n\n",
		},
	} {
		var events []string
		for i := range 50 {
			events = append(events, tt.event(i))
		}
		f := startAt(t, sse(t, events, nil), func(c *gateway.Config, _ *directory.Snapshot) { c.HoldDefault, c.HoldSlice = 1, 1 })
		f.left["S-TOKEN"] = 1 << 20
		f.do("POST", tt.path, tt.body, "Authorization", "Bearer "+tokenKey)
		first := f.record(0)
		prompt := first.Units[usage.InputToken]
		if first.Has(usage.Unbilled) { // no usage came: while a stream runs, the prompt is told by its size
			n := len(tt.body)
			if tt.name == "completions" {
				n += len(`"stream_options":{"include_usage":true},`)
			}
			prompt = int64(n+3) / 4
		}
		f.left["S-TOKEN"] = prompt + 4
		r := f.do("POST", tt.path, tt.body, "Authorization", "Bearer "+tokenKey)
		want := strings.Join(events[:4], "") + tt.first
		if !strings.HasPrefix(r.body, want) || !strings.HasSuffix(r.body, tt.last) || strings.Contains(tt.last, "DONE") != strings.Contains(r.body, "[DONE]") {
			t.Errorf("%s:\n%s\nwant\n%s…%s", tt.name, r.body, want, tt.last)
		}
		if rec := f.record(1); rec.Units[usage.Token] != prompt+4 || rec.Basis != usage.BasisCounted {
			t.Errorf("%s: %+v", tt.name, rec)
		}
	}
}

// TestHoldGrows: a stream that outgrows its estimate goes on while the lots
// have more, and is billed by the upstream's figure.
func TestHoldGrows(t *testing.T) {
	t.Parallel()
	var events []string
	for i := range 300 {
		events = append(events, textChunk(i))
	}
	events = append(events, usageChunk, doneEvent)
	f := startAt(t, sse(t, events, nil), func(c *gateway.Config, _ *directory.Snapshot) { c.HoldDefault, c.HoldSlice = 2, 16 })
	grown := int64(0)
	f.onSettle = func(*usage.Record) { f.mu.Lock(); grown = f.reserved["S-TOKEN"]; f.mu.Unlock() }
	if r := f.chatTokens(); !strings.HasSuffix(r.body, doneEvent) || strings.Contains(r.body, "insufficient_quota") {
		t.Fatal(r.body)
	}
	if rec := f.record(0); rec.Units[usage.Token] != 46 || rec.Basis != usage.BasisUpstream || rec.Has(usage.Incomplete) {
		t.Errorf("%+v", rec)
	}
	// The texts have 1390 bytes, which is more than one token an event.
	if least := promptTokens + 348; grown < least || grown > least+32 {
		t.Errorf("%d tokens were held for %d", grown, least)
	}
}

// TestQuotaAwayMidStream: while nobody can tell whether the package is used up,
// a stream gets one slice in good faith, and no more.
func TestQuotaAwayMidStream(t *testing.T) {
	t.Parallel()
	var events []string
	for i := range 300 {
		events = append(events, textChunk(i))
	}
	f := startAt(t, sse(t, events, nil), func(c *gateway.Config, _ *directory.Snapshot) { c.HoldDefault, c.HoldSlice = 10, 16 })
	f.extendErr = gateway.ErrUnavailable
	r := f.chatTokens()
	rec := f.record(0)
	// One more is held than the prompt's estimate in tokens and the output's.
	if out := rec.Units[usage.OutputToken]; out < 26 || out > 27 || rec.Reason != "quota_unavailable" || !strings.Contains(r.body, `"code":"quota_unavailable"`) || !strings.HasSuffix(r.body, doneEvent) {
		t.Errorf("%+v\n%s", rec, r.body)
	}
	f.extendErr = errors.New("the hold is resolved") // a fault of the engine ends no stream
	if r := f.chatTokens(); strings.Contains(r.body, "error") || strings.Count(r.body, "data: ") != 300 {
		t.Errorf("%s", r.body)
	}
}

// TestProvisionalRecords: before a client has the first byte of a counted
// answer a record of it is kept, and then as its use grows; a final one comes
// last.
func TestProvisionalRecords(t *testing.T) {
	t.Parallel()
	url, next, _ := slowStream(t, fullStream)
	f := startAt(t, url, func(c *gateway.Config, _ *directory.Snapshot) {
		c.CheckpointUnits, c.CheckpointEvery = 2, time.Hour
	})
	parts := func() []usage.Record {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Clone(f.parts)
	}
	w := f.dial()
	w.send(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer %s\nContent-Length: %d\n\n%s", tokenKey, len(helloStream), helloStream))
	for l := w.line(); l != ""; l = w.line() {
	}
	if got := parts(); len(got) != 0 {
		t.Fatalf("nothing was delivered yet: %+v", got)
	}
	for i, want := range []int{1, 1, 2, 2} { // after the first, and after each two tokens
		next <- struct{}{}
		if got := w.chunk(); got != textChunk(i) {
			t.Fatalf("%q", got)
		}
		got := parts()
		if len(got) != want {
			t.Fatalf("after chunk %d there are %d provisional records, want %d", i, len(got), want)
		}
		last := got[want-1]
		out := int64(1 + 2*(want-1))
		if last.Units[usage.OutputToken] != out || last.Units[usage.Token] != promptTokens+out || last.Units[usage.Call] != 1 || last.Basis != usage.BasisCounted ||
			!last.Has(usage.Counted|usage.Incomplete|usage.Streamed) || last.Subscription != "S-TOKEN" || last.BytesOut == 0 {
			t.Fatalf("%+v", last)
		}
	}
	next <- struct{}{}
	next <- struct{}{}
	rec := f.record(0)
	if rec.Units[usage.Token] != 46 || rec.Basis != usage.BasisUpstream || rec.Has(usage.Incomplete) || rec.ID != parts()[0].ID {
		t.Errorf("the final record: %+v", rec)
	}
}

// TestProvisionalRecordOfACall: a call charged by itself gets one provisional
// record, an answer that does not count or is whole gets none.
func TestProvisionalRecordOfACall(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for _, tt := range []struct {
		name   string
		header []string
		parts  int
	}{
		{"stream", []string{"X-Mock-Chunks", "20", "X-Mock-Chunk-Delay", "2ms"}, 1},
		{"failed stream", []string{"X-Mock-Status", "500"}, 0},
	} {
		f.mu.Lock()
		f.parts = nil
		f.mu.Unlock()
		f.chat(helloStream, tt.header...)
		f.idle()
		f.mu.Lock()
		if len(f.parts) != tt.parts {
			t.Errorf("%s: %+v", tt.name, f.parts)
		}
		f.mu.Unlock()
	}
	f.mu.Lock()
	f.parts = nil
	f.mu.Unlock()
	f.chat(hello)
	f.idle()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.parts) != 0 {
		t.Errorf("a plain answer: %+v", f.parts)
	}
}
