package journal

import (
	"os"
	"strings"
	"testing"
)

// TestAMissingSegmentIsTold removes one whole segment of three: a file that is
// gone is damage like one that was changed, unless every consumer had it.
func TestAMissingSegmentIsTold(t *testing.T) {
	t.Parallel()
	const number = 2
	j := mustOpen(t, t.TempDir(), Options{SegmentSize: minSegmentSize, Consumers: []string{"quota"}})
	var second, third Position
	for third.IsZero() {
		switch p := mustAppend(t, j, strings.Repeat("x", 1000)); {
		case p.Segment == 2 && second.IsZero():
			second = p
		case p.Segment == 3:
			third = p
		}
	}
	dir := j.dir
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if rep, err := Verify(dir); err != nil || !rep.OK() {
		t.Fatalf("whole: %v, %s", err, rep.String())
	}
	whole := t.TempDir()
	copyTree(t, dir, whole)
	want := Gap{From: second.Seq, To: third.Seq}
	if err := os.Remove(segmentName(dir, number)); err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(dir)
	if err != nil || rep.OK() || len(rep.Missing) != 1 || rep.Missing[0] != want || !strings.Contains(rep.String(), "missing") {
		t.Errorf("segment %d removed: %v, %s, want %v", number, err, rep.String(), want)
	}
	j = mustOpen(t, dir, Options{SegmentSize: minSegmentSize, Consumers: []string{"quota"}})
	if rep := j.Recovered(); rep.OK() || len(rep.Missing) != 1 || rep.Missing[0] != want {
		t.Errorf("segment %d removed: opened as %s, want %v", number, rep.String(), want)
	}

	j = mustOpen(t, whole, Options{SegmentSize: minSegmentSize, Consumers: []string{"quota"}, Retain: 1 << 60})
	c, err := j.Consumer("quota")
	if err != nil {
		t.Fatal(err)
	}
	for {
		rec, ok, err := c.TryNext()
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		if rec.Pos == third {
			break
		}
	}
	if err := c.Ack(third); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(segmentName(whole, number)); err != nil {
		t.Fatal(err)
	}
	if rep, err := Verify(whole); err != nil || !rep.OK() {
		t.Errorf("segment %d removed after it was acknowledged: %v, %s", number, err, rep.String())
	}
}
