package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// hinted is an operator's error with what to do about it.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() + ": " + h.hint }
func (h *hinted) Unwrap() error { return h.err }

// hint adds what to do about err; nil stays nil.
func hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// listenError explains why an address could not be listened on.
func listenError(key, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: the port of %s is already in use by another program: stop it, or choose another port with --%s (port 0 picks a free one)", key, addr, key)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: no permission to listen on %s: use a port above 1023, or grant CAP_NET_BIND_SERVICE", key, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: %s is not an address of this machine", key, addr)
	}
	return fmt.Errorf("%s: listen on %s: %w", key, addr, err)
}

// dataFolder makes the folder and proves that it can be written to.
func dataFolder(dir string) error {
	fail := func(err error) error {
		switch {
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("data folder %s: no permission to write: change its owner, or name another with --data", dir)
		case errors.Is(err, syscall.EROFS):
			return fmt.Errorf("data folder %s is on a read-only file system: name another with --data", dir)
		case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
			return fmt.Errorf("data folder %s is not a folder: name another with --data", dir)
		case errors.Is(err, syscall.ENOSPC):
			return fmt.Errorf("data folder %s: the disk is full: free some space, or name another with --data", dir)
		}
		return fmt.Errorf("data folder %s: %w: name another with --data", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(dir, ".write-test-*")
	if err != nil {
		return fail(err)
	}
	_, werr := f.WriteString("x")
	err = errors.Join(werr, f.Close(), os.Remove(f.Name()))
	if err != nil {
		return fail(err)
	}
	return nil
}

// writeFile writes a file whole or not at all, readable by its owner only.
func writeFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if _, err := tmp.Write(content); err != nil {
		_ = tmp.Close()
		return err
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
