package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"tollgate/quota"
	"tollgate/quota/ledger"
)

// markName is the file of the mark, beside the log: whoever removes the folder
// or puts an older one in its place changes both.
const markName = "quota.mark"

// openMark reads the mark.
func (s *Store) openMark() error {
	text, err := os.ReadFile(filepath.Join(s.log.dir, markName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		s.mark, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	if err != nil {
		return fmt.Errorf("quota: the embedded store's mark: %w: remove %s, and the store is compared with the books", err, filepath.Join(s.log.dir, markName))
	}
	return nil
}

// Mark implements quota.Witness.
func (s *Store) Mark(ctx context.Context) (quota.Mark, error) {
	s.markMu.Lock()
	defer s.markMu.Unlock()
	return quota.Mark{Generation: s.mark, Server: s.env().Run}, ctx.Err()
}

// SetMark implements quota.Witness.
func (s *Store) SetMark(ctx context.Context, from, to int64) (bool, error) {
	s.markMu.Lock()
	defer s.markMu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	switch {
	case from > 0 && s.mark < from, from < 0 && s.mark != from:
		return false, nil
	case from > 0:
		to = max(to, s.mark)
	}
	if to == s.mark {
		return true, nil
	}
	if err := s.writeMark(to); err != nil {
		return false, fmt.Errorf("quota: the embedded store's mark: %w", err)
	}
	s.mark = to
	return true, nil
}

// writeMark writes the mark whole or not at all.
func (s *Store) writeMark(n int64) error {
	path := filepath.Join(s.log.dir, markName)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(n, 10) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Checkpoint implements quota.Witness.
func (s *Store) Checkpoint(ctx context.Context, id string) (cp quota.Checkpoint, err error) {
	s.look(id, func(a *ledger.Account) { cp = a.Checkpoint() })
	return cp, ctx.Err()
}
