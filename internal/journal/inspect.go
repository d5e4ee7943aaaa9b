package journal

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Inspect reads a journal without changing anything and without its lock, for
// a person to look at or for another host to replay a dead node's disk. fn
// gets every valid record in order; its payload is valid during the call. An
// error of fn ends the walk and is returned. Damaged places are passed over
// and told in the report.
//
// The fronts are looked for where the node file says they are and in the
// folder itself: to replay on another host, copy them there when they are not.
func Inspect(dir string, fn func(Record) error) (Report, error) {
	var r Report
	var n nodeState
	f, err := os.Open(filepath.Join(dir, "node"))
	if err != nil {
		if os.IsNotExist(err) {
			return r, fmt.Errorf("%w: %s", ErrNotJournal, dir)
		}
		return r, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	if _, err := readSlots(f, &n); err != nil {
		return r, fmt.Errorf("journal: %w: the node file is damaged", err)
	}
	r = Report{Node: n.Node, Boot: n.Boot, Cursors: cursorsOf(dir), InUse: inUse(dir)}

	segs, err := listNumbered(dir, ".seg")
	if err != nil {
		return r, fmt.Errorf("journal: %w", err)
	}
	fronts, err := n.listFronts(dir)
	if err != nil {
		return r, fmt.Errorf("journal: %w", err)
	}
	numbers := slices.Sorted(maps.Keys(segs))
	for k := range fronts {
		if segs[k] == "" {
			numbers = append(numbers, k)
		}
	}
	slices.Sort(numbers)
	seq, boot := uint64(1), uint64(0)
	var gaps []Gap // between segments, whoever has read them
	for _, k := range numbers {
		m, err := loadImage(k, segs[k], fronts[k], n.id())
		if err != nil {
			if errors.Is(err, os.ErrNotExist) { // a live journal removed it meanwhile
				continue
			}
			return r, err
		}
		if m.ok && !m.unused {
			if m.h.boot == boot && m.h.base > seq {
				gaps = append(gaps, Gap{From: seq, To: m.h.base})
			}
			boot = m.h.boot
		}
		if seq, err = inspectImage(&r, &m, segs[k], seq, fn); err != nil {
			return r, err
		}
	}
	// A live journal removes what its consumers have acknowledged meanwhile, so
	// their cursors are read after the segments.
	acked := leastSeq(cursorsOf(dir))
	for _, g := range gaps {
		r.miss(g.From, g.To, acked)
	}
	return r, nil
}

func inspectImage(r *Report, m *image, name string, seq uint64, fn func(Record) error) (uint64, error) {
	if m.unused {
		return seq, nil
	}
	if !m.ok {
		s := scanned{end: uint32(len(m.b)), endSeq: seq, corrupt: headerSize}
		r.add(name, &header{segment: m.number, base: seq}, &s, m.size)
		return seq, nil
	}
	if m.h.sealed == 0 {
		r.Unsealed++
		if m.lost {
			r.FrontsMissing++
		}
	}
	s, err := scan(m.b, &m.h, func(off uint32, f frame) error {
		if fn == nil {
			return nil
		}
		return fn(Record{
			Pos:  Position{Segment: m.number, Offset: off, Seq: f.seq},
			End:  Position{Segment: m.number, Offset: off + f.size, Seq: f.seq + 1},
			Kind: f.kind, Boot: m.h.boot, Payload: f.payload,
		})
	})
	r.add(name, &m.h, &s, m.size)
	return max(seq, s.endSeq), err
}

// Verify checks every record of a journal and changes nothing. The report
// tells what is damaged; the error is for what could not be read at all.
func Verify(dir string) (Report, error) { return Inspect(dir, nil) }

func cursorsOf(dir string) map[string]Position {
	found := map[string]Position{}
	list, err := filepath.Glob(filepath.Join(dir, "cursor.*"))
	if err != nil {
		return found
	}
	for _, name := range list {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		var p Position
		if _, err := readSlots(f, &p); err == nil || errors.Is(err, errNoSlot) {
			found[strings.TrimPrefix(filepath.Base(name), "cursor.")] = p
		}
		_ = f.Close()
	}
	return found
}

func inUse(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
