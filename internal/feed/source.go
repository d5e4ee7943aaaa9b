package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"tollgate/internal/directory"
)

// Config is what a gateway needs to reach the admin role.
type Config struct {
	// AdminURL is the root of the admin role: scheme://host[:port][/base].
	AdminURL string
	// Secret is TOLLGATE_FEED_SECRET.
	Secret string
	// File keeps the last snapshot, sealed, for a start while the admin role is
	// away. Empty: none is kept.
	File string
	// Client makes the calls. Default: one without a proxy, with a connection
	// timeout of 3 s.
	Client *http.Client
	// Retry is the longest wait between two attempts. Default 2 s, so that a
	// change reaches the gateway within 5 s of the admin role's return.
	Retry time.Duration
	// Now is the clock of the proofs. Default time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// maxSealed bounds what is read of a sealed snapshot.
const maxSealed = 1 << 30

// firstRetry is the shortest wait after a failed attempt; each further failure
// doubles it up to Config.Retry.
const firstRetry = 50 * time.Millisecond

func (c *Config) setDefaults() error {
	u, err := url.Parse(c.AdminURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("feed: the admin address %q is not a URL such as http://127.0.0.1:8081: set --admin-url", c.AdminURL)
	}
	if u.User != nil {
		return errors.New("feed: the admin address must not hold a user name or password: the feed secret is proof enough")
	}
	if c.Secret == "" {
		return ErrNoSecret
	}
	c.AdminURL = strings.TrimRight(c.AdminURL, "/")
	if c.Client == nil {
		c.Client = newClient()
	}
	if c.Retry <= 0 {
		c.Retry = 2 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Source takes directory snapshots from the admin role by long poll.
//
// A gateway calls Next from one goroutine, in a loop. A failed attempt returns
// its error at once and makes the next call wait, jittered and doubling up to
// Config.Retry, so that the caller's loop needs no pause of its own and a
// thousand gateways do not come back in step.
type Source struct {
	cfg Config

	mu      sync.Mutex
	backoff time.Duration
	onDisk  bool // the snapshot on disk may still have to be served
}

// NewSource returns a Source. It does not call the admin role yet.
func NewSource(cfg Config) (*Source, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, onDisk: cfg.File != ""}, nil
}

// Next implements directory.Source. Until the admin role has answered once, a
// failure yields the snapshot on disk instead of an error, when there is one.
func (s *Source) Next(ctx context.Context, since int64) (*directory.Snapshot, error) {
	s.mu.Lock()
	wait := s.backoff
	s.mu.Unlock()
	if wait > 0 {
		t := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
	for {
		snap, err := s.poll(ctx, since)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			if old := s.failed(since); old != nil {
				s.cfg.Log.Warn("serving the directory snapshot kept on disk: the admin role is away", "version", old.Version, "made", old.Made, "error", err)
				return old, nil
			}
			return nil, err
		}
		s.mu.Lock()
		s.backoff, s.onDisk = 0, false
		s.mu.Unlock()
		if snap != nil && snap.Version != since {
			return snap, nil
		}
	}
}

// failed lengthens the wait before the next attempt and returns the snapshot on
// disk if it is still to be served.
func (s *Source) failed(since int64) *directory.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backoff = min(max(2*s.backoff, firstRetry), s.cfg.Retry)
	if !s.onDisk {
		return nil
	}
	s.onDisk = false
	sealed, err := os.ReadFile(s.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var snap *directory.Snapshot
	if err == nil {
		snap, err = directory.Open(sealed, s.cfg.Secret)
	}
	if err != nil {
		s.cfg.Log.Warn("the directory snapshot kept on disk is of no use", "file", s.cfg.File, "error", err)
		return nil
	}
	if snap.Version == since {
		return nil
	}
	return snap
}

// poll asks once. It returns nil, nil when nothing changed in time.
func (s *Source) poll(ctx context.Context, since int64) (*directory.Snapshot, error) {
	// A gateway that starts with a snapshot on disk should not wait long for an
	// admin role that accepts connections and says nothing.
	limit := MaxPoll + 10*time.Second
	s.mu.Lock()
	if s.onDisk && since == 0 {
		limit = 10 * time.Second
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.AdminURL+DirectoryPath+"?since="+strconv.FormatInt(since, 10), nil)
	if err != nil {
		return nil, err
	}
	if err := Sign(req, nil, s.cfg.Secret, s.cfg.Now()); err != nil {
		return nil, err
	}
	res, err := s.cfg.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("feed: ask the admin role for the directory: %w", err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusNoContent:
		return nil, nil
	case http.StatusOK:
	default:
		return nil, refusal(res)
	}
	sealed, err := io.ReadAll(io.LimitReader(res.Body, maxSealed+1))
	if err != nil {
		return nil, fmt.Errorf("feed: read the directory: %w", err)
	}
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("feed: the directory is larger than %d bytes", maxSealed)
	}
	snap, err := directory.Open(sealed, s.cfg.Secret)
	if err != nil {
		return nil, err
	}
	if err := s.keep(sealed); err != nil {
		s.cfg.Log.Warn("the directory snapshot could not be kept on disk: a restart while the admin role is away will not serve", "file", s.cfg.File, "error", err)
	}
	return snap, nil
}

// keep replaces the file on disk whole: a crash leaves the old or the new one.
func (s *Source) keep(sealed []byte) error {
	if s.cfg.File == "" {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(s.cfg.File), filepath.Base(s.cfg.File)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(sealed)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), s.cfg.File) // CreateTemp made it with mode 0600
}
