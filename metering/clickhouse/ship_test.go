package clickhouse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/journal"
	testserver "tollgate/internal/testkit/clickhouse"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/metering/metertest"
)

// childEnv makes the test binary the process that gets killed, storeEnv tells
// it the store's address.
const (
	childEnv = "TOLLGATE_METERING_CHILD"
	storeEnv = "TOLLGATE_METERING_STORE"
)

var quick = metering.ShipperOptions{BatchSize: 200, Linger: time.Millisecond, MinBackoff: time.Millisecond, MaxBackoff: 50 * time.Millisecond, Timeout: 10 * time.Second}

func openJournal(dir string) (*journal.Journal, *journal.Consumer, error) {
	j, err := journal.Open(dir, journal.Options{
		Node: "gw-1", SegmentSize: 64 << 10, SyncEvery: time.Millisecond,
		Consumers: []string{"usage", "keep"}, // keep reads nothing, so nothing is removed before it was counted
	})
	if err != nil {
		return nil, nil, err
	}
	c, err := j.Consumer("usage")
	return j, c, err
}

// shipper ships from the journal in dir with bounds on disk, as a node does.
func shipper(dir string, j *journal.Journal, c *journal.Consumer, sink metering.Sink) *metering.Shipper {
	opt := quick
	opt.Bounds, opt.Fresh = filepath.Join(dir, "usage.batch"), j.End()
	return metering.NewShipper(c, sink, opt)
}

func appendCalls(j *journal.Journal, from, to int) error {
	for n := from; n < to; n++ {
		r := metertest.Call(n)
		if n%97 == 0 { // a clock that is off by a year
			r.Time = r.Time.AddDate(-1, 0, 0)
			r.ID = ids.NewRequest(r.Time)
		}
		if n%31 == 0 { // some are written while they run
			part := r
			part.Flags |= usage.Provisional
			if _, err := j.Append(journal.KindUsage, usage.AppendRecord(nil, &part)); err != nil {
				return err
			}
		}
		if _, err := j.Append(journal.KindUsage, usage.AppendRecord(nil, &r)); err != nil {
			return err
		}
	}
	return nil
}

// journalled returns the ids of the calls in a journal.
func journalled(t *testing.T, dir string) map[string]bool {
	t.Helper()
	list := map[string]bool{}
	if _, err := journal.Inspect(dir, func(rec journal.Record) error {
		var r usage.Record
		if err := usage.DecodeRecord(rec.Payload, &r); err != nil {
			return err
		}
		list[r.ID.String()] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// wantExact holds what issue 5 asks for after every fault: as many distinct
// requests as calls in the journal, and rollups that equal the sums over them.
func wantExact(t *testing.T, server *testserver.Server, database string, want int) {
	t.Helper()
	const zero = "SELECT count() FROM (SELECT bucket, subscription, status, sum(c) AS c, sum(n) AS n, sum(x) AS x FROM (" +
		"SELECT %[2]s(time) AS bucket, subscription, status, toInt64(1) AS c, toInt64(charged_token) AS n, toInt64(total_ns) AS x FROM %[1]s.usage_call FINAL" +
		" UNION ALL SELECT bucket, subscription, status, -calls, -charged_token, -total_ns FROM %[1]s.usage_%[3]s) GROUP BY ALL HAVING c != 0 OR n != 0 OR x != 0)"
	for _, q := range []struct{ what, text, want string }{
		{"distinct requests", "SELECT uniqExact(request) FROM " + database + ".usage_call", fmt.Sprint(want)},
		{"rows", "SELECT count() FROM " + database + ".usage_call FINAL", fmt.Sprint(want)},
		{"differences per minute", fmt.Sprintf(zero, database, "toStartOfMinute", "minute"), "0"},
		{"differences per hour", fmt.Sprintf(zero, database, "toStartOfHour", "hour"), "0"},
		{"differences per day", fmt.Sprintf(zero, database, "toStartOfDay", "day"), "0"},
	} {
		got, err := server.Query(t.Context(), q.text)
		if err != nil {
			t.Fatalf("%s: %v", q.what, err)
		}
		if got != q.want {
			t.Errorf("%s: %s, want %s", q.what, got, q.want)
		}
	}
}

func drain(t *testing.T, s *metering.Shipper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestEachBatchFiveTimes sends each batch again and again, whole and in other
// cuts, as fresh and as doubtful.
func TestEachBatchFiveTimes(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t)
	s := openAt(t, server.URL("five"), Options{})
	var recs []usage.Record
	for n := range 1000 {
		recs = append(recs, metertest.Call(n))
	}
	for at := 0; at < len(recs); at += 250 {
		part := recs[at : at+250]
		b := metering.Batch{ID: metering.BatchID(part), Records: part, Made: time.Now()}
		for try := range 5 {
			b.Doubtful = try%2 == 1
			if err := s.InsertBatch(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	metertest.MustInsert(t, s, recs[100:900]...)
	wantExact(t, server, "five", 1000)
}

// TestABatchWhoseTokenIsForgotten: what ClickHouse no longer recognises is
// found by request id, and the rollups are corrected where a crash had left
// them behind.
func TestABatchWhoseTokenIsForgotten(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t)
	s := openAt(t, server.URL("forgotten"), Options{})
	var recs []usage.Record
	for n := range 300 {
		recs = append(recs, metertest.Call(n))
	}
	b := metering.Batch{ID: metering.BatchID(recs), Records: recs, Made: time.Now().Add(-time.Hour), Doubtful: true}
	if err := s.InsertBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	// As after a crash between two tables, long ago.
	for _, text := range []string{
		"TRUNCATE TABLE forgotten.usage_hour", "INSERT INTO forgotten.usage_day SELECT * FROM forgotten.usage_day",
		"ALTER TABLE forgotten.usage_call MODIFY SETTING non_replicated_deduplication_window = 0",
		"ALTER TABLE forgotten.usage_minute MODIFY SETTING non_replicated_deduplication_window = 0",
	} {
		if _, err := server.Query(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.InsertBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	wantExact(t, server, "forgotten", 300)
	if n, err := s.Repair(t.Context(), metertest.Noon.AddDate(0, 0, -2), metertest.Noon); n != 0 || err != nil {
		t.Errorf("a second Repair = %d, %v, want nothing to do", n, err)
	}
}

// TestRepliesAreDropped puts a proxy between that breaks requests before and
// after they took effect.
func TestRepliesAreDropped(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t)
	server.URL("dropped")
	target := &url.URL{Scheme: "http", Host: server.Addr()}
	forward := httputil.NewSingleHostReverseProxy(target)
	var dropped atomic.Int64
	rnd := rand.New(rand.NewPCG(1, 9))
	var calm atomic.Bool
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hurt := strings.Contains(r.URL.RawQuery, "INSERT") && !calm.Load()
		switch n := rnd.IntN(4); {
		case hurt && n == 0: // it never arrives
			dropped.Add(1)
			panic(http.ErrAbortHandler)
		case hurt && n == 1: // it is done, and nobody hears of it
			dropped.Add(1)
			forward.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		forward.ServeHTTP(w, r)
	}))
	proxy.Config.ErrorLog = nil
	defer proxy.Close()
	s := openAt(t, "clickhouse+http://"+strings.TrimPrefix(proxy.URL, "http://")+"/dropped", Options{})
	dir := t.TempDir()
	j, c, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := appendCalls(j, 0, 3000); err != nil {
		t.Fatal(err)
	}
	ship := shipper(dir, j, c, s)
	drain(t, ship)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if dropped.Load() < 3 || ship.Stats().Failures == 0 {
		t.Fatalf("%d replies dropped, %+v", dropped.Load(), ship.Stats())
	}
	wantExact(t, server, "dropped", 3000)
}

// TestKill9Everything kills the process that appends and ships, and the store,
// in the middle of inserts, again and again.
func TestKill9Everything(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t)
	address := server.URL("kill9")
	openAt(t, address, Options{}) // the schema
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 5))
	for round := range 6 {
		child := exec.CommandContext(t.Context(), exe)
		child.Env = append(os.Environ(), childEnv+"="+dir, storeEnv+"="+address)
		var stderr bytes.Buffer
		child.Stderr = &stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		read := func(lines int) {
			line := make([]byte, 1)
			for lines > 0 {
				if _, err := out.Read(line); err != nil {
					t.Fatalf("the child ended by itself: %v\n%s", err, stderr.String())
				}
				if line[0] == '\n' {
					lines--
				}
			}
		}
		read(1 + rnd.IntN(15))
		if round%2 == 0 { // the store dies under the shipper, and comes back
			server.Kill()
			server.Restart()
			read(5 + rnd.IntN(10))
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = child.Wait()
	}
	want := journalled(t, dir)
	j, c, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	s := openAt(t, address, Options{})
	before, err := server.Query(t.Context(), "SELECT count() FROM kill9.usage_call")
	if err != nil || before == "0" || c.Lag() == 0 {
		t.Fatalf("the kills fell beside the work: %s stored, %d left, %v", before, c.Lag(), err)
	}
	drain(t, shipper(dir, j, c, s))
	wantExact(t, server, "kill9", len(want))
	for id := range want {
		request, err := ids.ParseRequest(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.ByRequest(t.Context(), request); err != nil {
			t.Fatalf("request %s: %v", id, err)
		}
		break
	}
}

// shipUntilKilled ships from the journal in dir, and appends as well, until the
// process is killed. It prints a line for each confirmed batch.
func shipUntilKilled(dir, address string) error {
	j, c, err := openJournal(dir)
	if err != nil {
		return err
	}
	store, err := Open(context.Background(), address, Options{})
	if err != nil {
		return err
	}
	s := shipper(dir, j, c, told{store})
	go func() {
		for n := int(j.Boot()) * 100_000; ; n += 20 {
			if err := appendCalls(j, n, n+20); err != nil && !errors.Is(err, journal.ErrFull) {
				panic(err)
			}
			_ = j.Sync(context.Background())                                         // not faster than the disk
			for tick := time.NewTicker(time.Millisecond); c.Lag() > 2000; <-tick.C { //nolint:staticcheck // until it is killed
			}
		}
	}()
	return s.Run(context.Background())
}

// told prints a line before each try and after each success.
type told struct{ *Store }

func (s told) InsertBatch(ctx context.Context, b metering.Batch) error {
	fmt.Println("try")
	err := s.Store.InsertBatch(ctx, b)
	fmt.Println(err)
	return err
}

// TestOpenTellsWhatIsWrong: errors at the start name the remedy.
func TestOpenTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := ln.Addr().String()
	_ = ln.Close()
	for name, c := range map[string]struct {
		address string
		opt     Options
		hint    string
	}{
		"another scheme": {"mysql://host/db", Options{}, "clickhouse://user:password@host:9000/database"},
		"nobody there":   {"clickhouse+http://" + gone + "/usage", Options{}, "refused"},
		"no database":    {"clickhouse+http://" + server.Addr() + "/nowhere", Options{}, "CREATE DATABASE nowhere"},
		"cluster":        {server.URL("x"), Options{Cluster: "a'b"}, "remote_servers"},
	} {
		s, err := Open(t.Context(), c.address, c.opt)
		if err == nil || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.hint)
		}
		if s != nil {
			_ = s.Close()
		}
	}
}
