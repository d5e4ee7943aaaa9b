package journal

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// childEnv makes the test binary the process that gets killed.
const childEnv = "TOLLGATE_JOURNAL_CHILD"

// child appends from several goroutines until it is killed, and writes the
// number of each record to standard output after Append has returned.
func child() {
	var dir, front string
	var strict bool
	var writers int
	if _, err := fmt.Sscanf(os.Getenv(childEnv), "%q %q %t %d", &dir, &front, &strict, &writers); err != nil {
		panic(err)
	}
	j, err := Open(dir, Options{SegmentSize: minSegmentSize, FrontDir: front, Strict: strict, Consumers: []string{"all"}})
	if err != nil {
		panic(err)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(uint64(w), j.Boot()))
			for n := uint32(0); ; n++ {
				payload := fmt.Appendf(nil, "%d %d %d %s", j.Boot(), w, n, strings.Repeat("z", rnd.IntN(400)))
				if _, err := j.Append(KindUsage, payload); err != nil {
					panic(err)
				}
				ack := binary.LittleEndian.AppendUint32(nil, uint32(w))
				if _, err := os.Stdout.Write(binary.LittleEndian.AppendUint32(ack, n)); err != nil {
					panic(err)
				}
			}
		}()
	}
	wg.Wait()
}

// TestKill9 kills a process in the middle of its appends, again and again, and
// looks for every record whose Append had returned: each is there exactly
// once, in the order of its writer (fault 1, METER-12).
func TestKill9(t *testing.T) {
	t.Parallel()
	memory, err := os.MkdirTemp("/dev/shm", "tollgate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	for _, c := range []struct {
		name, front string
		strict      bool
		rounds      int
	}{
		{"front beside the segments", "", false, 8},
		{"front in memory", memory, false, 8},
		{"strict", "", true, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			seed := rand.Uint64()
			rnd := rand.New(rand.NewPCG(seed, 1))
			t.Logf("seed %d", seed)
			const writers = 6
			acked := map[[2]uint64]int64{} // boot and writer -> greatest number acknowledged
			for round := range c.rounds {
				most := 1 + rnd.IntN(3000)
				if c.strict {
					most = 1 + rnd.IntN(200)
				}
				for w, n := range killOnce(t, dir, c.front, c.strict, writers, most) {
					acked[[2]uint64{uint64(round + 1), uint64(w)}] = n
				}
				checkKilled(t, dir, c.front, acked, uint64(round+1))
			}
		})
	}
}

// killOnce runs the child, kills it after it has acknowledged most records, and
// returns the last acknowledgement of each writer.
func killOnce(t *testing.T, dir, front string, strict bool, writers, most int) map[int]int64 {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childEnv+"="+fmt.Sprintf("%q %q %t %d", dir, front, strict, writers))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acks := map[int]int64{}
	in := bufio.NewReader(out)
	for seen := 0; ; seen++ {
		var b [8]byte
		if _, err := io.ReadFull(in, b[:]); err != nil {
			if seen < most {
				t.Fatalf("the child ended by itself after %d records: %v", seen, err)
			}
			break // what was in the pipe when it died is read as well
		}
		acks[int(binary.LittleEndian.Uint32(b[:]))] = int64(binary.LittleEndian.Uint32(b[4:]))
		if seen == most {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	return acks
}

func checkKilled(t *testing.T, dir, front string, acked map[[2]uint64]int64, boots uint64) {
	t.Helper()
	// What Inspect sees without changing anything and what Open recovers must
	// be the same records.
	check := func(how string, next func() (Record, bool)) int {
		seen := map[[2]uint64]int64{}
		n := 0
		for rec, ok := next(); ok; rec, ok = next() {
			f := strings.Fields(string(rec.Payload))
			boot, _ := strconv.ParseUint(f[0], 10, 64)
			w, _ := strconv.ParseUint(f[1], 10, 64)
			k, _ := strconv.ParseInt(f[2], 10, 64)
			at := [2]uint64{boot, w}
			if rec.Boot != boot {
				t.Fatalf("%s: record of boot %d is told as boot %d", how, boot, rec.Boot)
			}
			if want := seen[at]; k != want {
				t.Fatalf("%s: boot %d writer %d: record %d where %d should be", how, boot, w, k, want)
			}
			seen[at] = k + 1
			n++
		}
		for at, last := range acked {
			if seen[at] <= last {
				t.Fatalf("%s: boot %d writer %d: record %d was acknowledged and only %d are there (%d in all)", how, at[0], at[1], last, seen[at], n)
			}
		}
		return n
	}
	var recs []Record
	before, err := Inspect(dir, func(r Record) error {
		r.Payload = append([]byte(nil), r.Payload...)
		recs = append(recs, r)
		return nil
	})
	t.Log(before.String())
	if err != nil || !before.OK() || before.InUse || before.FrontsMissing > 0 {
		t.Fatalf("Inspect: %s, %v", before.String(), err)
	}
	total := len(recs)
	n := check("Inspect", func() (Record, bool) {
		if len(recs) == 0 {
			return Record{}, false
		}
		r := recs[0]
		recs = recs[1:]
		return r, true
	})
	if before.Records != int64(total) {
		t.Fatalf("Inspect tells %d records and gave %d", before.Records, total)
	}
	// Opening a copy leaves the boot numbers of the original to the child.
	j := mustOpen(t, copyOf(t, dir, front), Options{Consumers: []string{"all"}})
	r := j.Reader(Position{})
	defer r.Close()
	m := check("Open", func() (Record, bool) {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		return rec, ok
	})
	if n != m {
		t.Fatalf("Inspect saw %d records, Open %d", n, m)
	}
	if rep := j.Recovered(); rep.Boot != boots || rep.Records != int64(n) {
		t.Fatalf("report %s, want %d records", rep.String(), n)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// copyOf copies a journal as one does to replay it on another host: the folder
// and, where they lie elsewhere, the fronts.
func copyOf(t *testing.T, dir, front string) string {
	t.Helper()
	to := t.TempDir()
	copyTree(t, dir, to)
	if front != "" {
		list, err := os.ReadDir(front)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			copyTree(t, front+"/"+e.Name(), to+"/front")
		}
	}
	return to
}
