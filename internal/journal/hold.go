package journal

import (
	"fmt"
	"os"
	"path/filepath"
)

// Hold takes the lock of the journal in dir without opening it, so that no
// process appends while another reads it to the end. It fails when a process has
// it open. release gives the lock back.
func Hold(dir string) (release func() error, err error) {
	if _, err := os.Stat(filepath.Join(dir, "node")); err != nil {
		if os.IsNotExist(err) {
			return nil, fmt.Errorf("%w: %s", ErrNotJournal, dir)
		}
		return nil, fmt.Errorf("journal: %w", err)
	}
	f, err := lockFile(dir)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}
