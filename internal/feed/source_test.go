package feed

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tollgate/internal/directory"
)

const secret = "feed secret"

// transport answers without a network, so that time can be a bubble's.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func reply(status int, body []byte) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return w.Result(), nil
}

func sealed(t *testing.T, version int64) []byte {
	t.Helper()
	b, err := directory.Seal(&directory.Snapshot{Version: version}, secret)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func source(t *testing.T, file string, f transport) *Source {
	t.Helper()
	s, err := NewSource(Config{AdminURL: "http://admin.example.com/base/", Secret: secret, File: file, Client: &http.Client{Transport: f}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNextAsksAgainUntilSomethingChanged(t *testing.T) {
	t.Parallel()
	var asked []string
	s := source(t, "", func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.Path+"?"+r.URL.RawQuery)
		if err := Verify(r, nil, secret, time.Now()); err != nil {
			t.Error(err)
		}
		switch len(asked) {
		case 1:
			return reply(204, nil)
		case 2:
			return reply(200, sealed(t, 7)) // the same again, from a slow balancer
		default:
			return reply(200, sealed(t, 8))
		}
	})
	snap, err := s.Next(t.Context(), 7)
	if err != nil || snap.Version != 8 || len(asked) != 3 || asked[0] != "/base/feed/v1/directory?since=7" {
		t.Errorf("Next = %v, %v after %v", snap, err, asked)
	}
}

func TestFailuresAreToldAndWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := false
		s := source(t, "", func(*http.Request) (*http.Response, error) {
			if up {
				return reply(200, sealed(t, 3))
			}
			return nil, errors.New("refused")
		})
		var waits []time.Duration
		for range 12 {
			begun := time.Now()
			if _, err := s.Next(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Fatalf("Next = %v", err)
			}
			waits = append(waits, time.Since(begun))
		}
		if waits[0] != 0 {
			t.Errorf("the first attempt waited %s", waits[0])
		}
		for _, w := range waits[8:] { // within 5 s of the admin role's return (KEY-7)
			if w < time.Second || w > 2*time.Second {
				t.Errorf("waits %v, want them to settle in 1..2 s", waits)
				break
			}
		}
		up = true
		if snap, err := s.Next(t.Context(), 1); err != nil || snap.Version != 3 {
			t.Errorf("Next = %v, %v", snap, err)
		}
		begun := time.Now()
		if _, err := s.Next(t.Context(), 1); err != nil || time.Since(begun) != 0 {
			t.Errorf("after a success Next waited %s, %v", time.Since(begun), err)
		}
	})
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := source(t, "", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Next(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next = %v", err)
		}
		// An admin role that accepts and says nothing is given up on.
		begun := time.Now()
		if _, err := s.Next(t.Context(), 1); err == nil || time.Since(begun) > MaxPoll+15*time.Second {
			t.Errorf("Next = %v after %s", err, time.Since(begun))
		}
	})
}

func TestSnapshotOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "directory")
	away := func(*http.Request) (*http.Response, error) { return nil, errors.New("away") }

	if _, err := source(t, file, away).Next(t.Context(), 0); err == nil {
		t.Error("nothing on disk, nobody there, and no error")
	}
	if err := os.WriteFile(file, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := source(t, file, away).Next(t.Context(), 0); err == nil {
		t.Error("a damaged file was served")
	}
	s := source(t, file, func(*http.Request) (*http.Response, error) { return reply(200, sealed(t, 5)) })
	if snap, err := s.Next(t.Context(), 0); err != nil || snap.Version != 5 {
		t.Fatalf("Next = %v, %v", snap, err)
	}
	s = source(t, file, away)
	if snap, err := s.Next(t.Context(), 0); err != nil || snap.Version != 5 {
		t.Errorf("from disk: %v, %v", snap, err)
	}
	if snap, err := s.Next(t.Context(), 5); err == nil {
		t.Errorf("from disk a second time: %v", snap)
	}
	other, err := NewSource(Config{AdminURL: "http://a.example.com", Secret: "another", File: file, Client: &http.Client{Transport: transport(away)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Next(t.Context(), 0); err == nil {
		t.Error("a file under another secret was served")
	}
	// An answer that does not open never replaces the file.
	s = source(t, file, func(*http.Request) (*http.Response, error) { return reply(200, []byte("rubbish")) })
	s.onDisk = false
	if _, err := s.Next(t.Context(), 5); !errors.Is(err, directory.ErrSeal) {
		t.Errorf("Next = %v", err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := directory.Open(raw, secret); err != nil || snap.Version != 5 {
		t.Errorf("the file has %v, %v", snap, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRefusalsNameTheRemedy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"proof":    {401, `{"code":"FEED_PROOF","detail":"x"}`, "TOLLGATE_FEED_SECRET"},
		"skew":     {401, `{"code":"FEED_SKEW","detail":"x"}`, "clocks"},
		"a code":   {503, `{"code":"FEED_OFF","detail":"set it"}`, "FEED_OFF: set it"},
		"no admin": {404, "nothing here", "--admin-url"},
		"redirect": {302, "", "302"},
		"other":    {500, "<html>", "500"},
	} {
		s := source(t, "", func(*http.Request) (*http.Response, error) { return reply(c.status, []byte(c.body)) })
		if _, err := s.Next(t.Context(), 0); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
	for name, cfg := range map[string]Config{
		"no address": {Secret: secret}, "no scheme": {AdminURL: "localhost:8081", Secret: secret}, "scheme": {AdminURL: "ftp://a", Secret: secret},
		"user": {AdminURL: "http://u:p@a.example.com", Secret: secret}, "no secret": {AdminURL: "http://a.example.com"},
	} {
		if _, err := NewSource(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := NewUsageSink(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestConcurrentUse is for the race detector: a gateway may be closed while it
// waits.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	var version sync.Map
	s := source(t, filepath.Join(t.TempDir(), "f"), func(r *http.Request) (*http.Response, error) {
		since, _ := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
		version.Store(since, true)
		_, _ = io.Copy(io.Discard, http.NoBody)
		return reply(200, sealed(t, since+1))
	})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if _, err := s.Next(t.Context(), int64(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
