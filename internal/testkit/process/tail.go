package process

import "sync"

// tailSize bounds what is kept of a program's output, in bytes per stream.
const tailSize = 256 << 10

// tail is a writer that keeps the newest tailSize bytes written to it. It is
// safe for use by several goroutines.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write keeps p and forgets the oldest bytes past tailSize. It never fails.
func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, p...)
	if over := len(w.buf) - tailSize; over > 0 {
		w.buf = append(w.buf[:0], w.buf[over:]...)
	}
	return len(p), nil
}

// String returns what is kept.
func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.buf)
}
