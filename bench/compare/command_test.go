package compare

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
)

// TestCompare runs the real program as targets, upstream and generator, very
// shortly.
func TestCompare(t *testing.T) {
	page := filepath.Join(t.TempDir(), "report.html")
	var out bytes.Buffer
	c := Command{
		JSON: true, Quick: true, Program: tollgate.Binary(t), Only: []string{"direct", "fasthttp", "redis-proxy", "tollgate-gateway", "tollgate-embedded"},
		Rounds: 1, Duration: 60 * time.Millisecond, Connections: 8, Streams: 4, Rate: 50, AnswerSize: 1024, Chunks: 5, ChunkDelay: time.Millisecond,
		Report: page,
	}
	if err := c.run(t.Context(), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	for _, want := range []struct{ target, scenario, auth, store, role string }{
		{"direct", "closed", "none", "", ""},
		{"fasthttp", "closed", "none", "", ""},
		{"redis-proxy", "closed", "none", "redis", ""},
		{"tollgate", "closed", "apikey", "redis", "gateway"},
		{"tollgate", "closed", "appcode", "redis", "gateway"},
		{"tollgate", "closed", "signature", "redis", "gateway"},
		{"tollgate", "closed", "apikey", "embedded", "all"},
		{"fasthttp", "open", "none", "", ""},
		{"tollgate", "open", "apikey", "redis", "gateway"},
		{"fasthttp", "stream", "none", "", ""},
		{"tollgate", "stream", "apikey", "redis", "gateway"},
		{"tollgate", "stream", "apikey", "embedded", "all"},
	} {
		x := r.find(want.target, want.scenario, want.auth, want.store, want.role)
		switch {
		case x == nil:
			t.Errorf("%v was not measured", want)
		case x.Errors != 0 || x.Requests == 0 || x.RPS == 0 || x.P50 == 0 || x.P999 < x.P50:
			t.Errorf("%+v", *x)
		case want.target != "direct" && (x.CPU < 3 || x.CPU > 100_000 || x.RSS < 5):
			t.Errorf("%v: %v µs of processor time a call, %v MB", want, x.CPU, x.RSS)
		case want.scenario == "stream" && (x.CPUChunk == 0 || x.CPUChunk >= x.CPU):
			t.Errorf("%v: %v µs a chunk, %v a call", want, x.CPUChunk, x.CPU)
		}
	}
	// Two round trips cost more than one: the ratio is one of measured times.
	if a, b := r.find("redis-proxy", "closed", "none", "redis", ""), r.find("fasthttp", "closed", "none", "", ""); a != nil && b != nil && a.CPU <= b.CPU {
		t.Errorf("a proxy with a Redis round trip costs %v µs, one without %v", a.CPU, b.CPU)
	}
	if r.Ratios.APIKeyVsFasthttp == 0 || r.Ratios.SignatureVsFasthttp == 0 || r.Ratios.ChunkVsFasthttp == 0 {
		t.Errorf("ratios %+v", r.Ratios)
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("report: %v", err)
	}
}

// TestMistakes: what cannot be measured is refused with what to do.
func TestMistakes(t *testing.T) {
	good := Command{Quick: true, Program: "/bin/false", Connections: 1, Streams: 1, AnswerSize: 1, Chunks: 1, ChunkDelay: time.Millisecond}
	for _, tt := range []struct {
		name string
		with func(*Command)
		want string
	}{
		{"unknown target", func(c *Command) { c.Only = []string{"envoy"} }, "there is no target \"envoy\": use some of direct"},
		{"connections", func(c *Command) { c.Connections = 0 }, "--connections must be from 1 to 4096"},
		{"delay", func(c *Command) { c.ChunkDelay = time.Microsecond }, "--chunk-delay must be from 1ms to 1s"},
		{"a program that ends", func(*Command) {}, "false"},
	} {
		c := good
		tt.with(&c)
		if err := c.run(t.Context(), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", tt.name, err, tt.want)
		}
	}
}

// TestMissing: a peer that is not installed is left out, with the remedy.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	b := bed{portkeyDir: t.TempDir()}
	_, err := b.portkey(t.Context())
	if !missing(err) || !strings.Contains(err.Error(), "make setup") {
		t.Errorf("without node: %v", err)
	}
	if _, err := find("no-such-proxy", "install it"); !missing(err) || !strings.Contains(err.Error(), "install it") {
		t.Errorf("find: %v", err)
	}
}
