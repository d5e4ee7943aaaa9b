package compare

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
)

// TestScale measures small sizes with the real program: the directory a gateway
// serves by is the admin role's with rows added, and a new one comes into force
// under load without an error.
func TestScale(t *testing.T) {
	page := filepath.Join(t.TempDir(), "report.html")
	var out bytes.Buffer
	c := Command{
		JSON: true, Quick: true, Program: tollgate.Binary(t), Scale: true, Report: page,
		Rounds: 1, Duration: 100 * time.Millisecond, Connections: 8, Streams: 1, AnswerSize: 600, Chunks: 1, ChunkDelay: time.Millisecond,
		sizes: []Scale{{Credentials: 1, Lots: 1, Products: 3}, {Credentials: 500, Lots: 4, Products: 20}},
	}
	if err := c.run(t.Context(), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if len(r.Scale) != 2 || r.Scale[0].Ratio != 1 {
		t.Fatalf("%+v", r.Scale)
	}
	for _, x := range r.Scale {
		if x.Errors != 0 || x.CPU < 3 || x.RPS == 0 || x.RSS < 5 || x.Peak < x.RSS || x.Load == 0 || x.Swap == 0 || x.SwapP99 == 0 || x.QuietP99 == 0 || x.Sealed == 0 {
			t.Errorf("%+v", x)
		}
	}
	if r.Scale[1].Sealed <= r.Scale[0].Sealed {
		t.Error("more credentials do not make a larger snapshot")
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<td>500<td>4<td>20<td>")) {
		t.Errorf("report: %v", err)
	}
}
