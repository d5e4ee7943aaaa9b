package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// machine drives a journal beside a plain list of what was appended.
type machine struct {
	t      *testing.T
	j      *Journal
	opt    Options
	all    []string
	acked  map[string]int
	synced int // records that a crash of the machine must not lose
	boots  uint64
}

func (m *machine) open(t *rapid.T, dir string) {
	j, err := Open(dir, m.opt)
	if err != nil {
		t.Fatal(err)
	}
	m.j = j
	m.boots++
	if j.Boot() != m.boots {
		t.Fatalf("boot %d, want %d", j.Boot(), m.boots)
	}
}

func (m *machine) close(t *rapid.T) {
	if err := m.j.Close(); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) consumer(t *rapid.T) (string, *Consumer) {
	name := rapid.SampledFrom(m.opt.Consumers).Draw(t, "consumer")
	c, err := m.j.Consumer(name)
	if err != nil {
		t.Fatal(err)
	}
	return name, c
}

// read checks that c delivers n records from what it has acknowledged on.
func (m *machine) read(t *rapid.T, name string, c *Consumer, n int) Position {
	c.Rewind()
	var end Position
	for i := range n {
		rec, ok, err := c.TryNext()
		if !ok || err != nil {
			t.Fatalf("%s record %d of %d: %v, %v", name, m.acked[name]+i, len(m.all), ok, err)
		}
		if want := m.all[m.acked[name]+i]; string(rec.Payload) != want {
			t.Fatalf("%s record %d is %q, want %q", name, m.acked[name]+i, rec.Payload, want)
		}
		if rec.Pos.Seq <= end.Seq-1 && end.Seq > 0 {
			t.Fatalf("%s record %d has seq %d after %d", name, m.acked[name]+i, rec.Pos.Seq, end.Seq-1)
		}
		end = rec.End
	}
	return end
}

// slowest returns the consumer that has acknowledged least: it reads all that
// the journal still holds.
func (m *machine) slowest() string {
	name := m.opt.Consumers[0]
	for _, c := range m.opt.Consumers {
		if m.acked[c] < m.acked[name] {
			name = c
		}
	}
	return name
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"append": func(t *rapid.T) {
			for range rapid.IntRange(1, 60).Draw(t, "records") {
				size := rapid.SampledFrom([]int{0, 1, 7, 8, 9, 160, 1000, MaxPayload - 30}).Draw(t, "size")
				p := fmt.Sprintf("%d:%s", len(m.all), strings.Repeat("p", size))
				if _, err := m.j.Append(KindUsage, []byte(p)); err != nil {
					t.Fatal(err)
				}
				m.all = append(m.all, p)
			}
		},
		"ack": func(t *rapid.T) {
			name, c := m.consumer(t)
			n := rapid.IntRange(0, len(m.all)-m.acked[name]).Draw(t, "records")
			if n == 0 {
				return
			}
			if err := c.Ack(m.read(t, name, c, n)); err != nil {
				t.Fatal(err)
			}
			m.acked[name] += n
		},
		"sync": func(t *rapid.T) {
			if err := m.j.Sync(m.t.Context()); err != nil {
				t.Fatal(err)
			}
			m.synced = len(m.all)
		},
		"reopen": func(t *rapid.T) {
			m.close(t)
			m.open(t, m.j.dir)
			m.synced = len(m.all)
			if r := m.j.Recovered(); r.Unsealed != 0 || r.Torn != 0 || !r.OK() {
				t.Fatalf("after a clean end: %s", r.String())
			}
		},
		"kill": func(t *rapid.T) {
			dir := snapshot(m.t, m.j)
			m.close(t)
			m.open(t, dir)
			m.synced = len(m.all) // recovery has put all on disk
			if r := m.j.Recovered(); r.Torn != 0 || r.FrontsMissing != 0 || !r.OK() {
				t.Fatalf("after a kill: %s", r.String())
			}
		},
		"lose power": func(t *rapid.T) {
			dir := snapshot(m.t, m.j)
			m.close(t)
			if err := os.RemoveAll(filepath.Join(dir, "front")); err != nil {
				t.Fatal(err)
			}
			m.open(t, dir)
			r := m.j.Recovered()
			if !r.OK() {
				t.Fatalf("after a loss of power: %s", r.String())
			}
			// What is left is a beginning of what was appended: all that was
			// synced and perhaps more. A consumer may have been done with more.
			c, err := m.j.Consumer(m.slowest())
			if err != nil {
				t.Fatal(err)
			}
			left := m.acked[m.slowest()] + len(readAll(m.t, &c.Reader))
			if left < m.synced || left > len(m.all) {
				t.Fatalf("%d records left of %d, %d of them synced", left, len(m.all), m.synced)
			}
			m.all = m.all[:left]
			m.synced = left
			for name, n := range m.acked {
				m.acked[name] = min(n, left)
			}
		},
		"": func(t *rapid.T) {
			for _, name := range m.opt.Consumers {
				c, err := m.j.Consumer(name)
				if err != nil {
					t.Fatal(err)
				}
				left := len(m.all) - m.acked[name]
				if lag := c.Lag(); lag != int64(left) {
					t.Fatalf("lag of %s is %d, want %d", name, lag, left)
				}
				m.read(t, name, c, left)
				if rec, ok, err := c.TryNext(); ok || err != nil {
					t.Fatalf("%s gets %q, %v behind the end", name, rec.Payload, err)
				}
			}
			if err := m.j.CanAdmit(); err != nil {
				waitFor(m.t, m.j, func() bool { return m.j.CanAdmit() == nil })
			}
		},
	}
}

// TestModel runs random appends, acknowledgements, restarts, kills and losses
// of power beside a list.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{
			t:     t,
			opt:   Options{Node: "model", Consumers: []string{"quota", "usage"}, SegmentSize: 4 * minSegmentSize, SyncEvery: time.Millisecond},
			acked: map[string]int{},
		}
		m.open(rt, memoryDir(t))
		defer func() { _ = m.j.Close() }()
		rt.Repeat(m.actions())
	})
}
