package accesslog

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// Stdout names standard output in place of a file.
const Stdout = "stdout"

// Writer writes lines. It is safe for concurrent use.
type Writer struct {
	path  string
	lines chan []byte
	spare sync.Pool // of *[]byte

	mu     sync.Mutex // guards file against Reopen
	file   io.WriteCloser
	closed sync.Once
	done   chan struct{}
	stop   chan struct{}

	dropped, failed atomic.Int64
}

// Open opens the file for appending, or standard output, and starts the writer.
// buffer is how many lines may wait.
func Open(path string, buffer int) (*Writer, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	w := newWriter(f, buffer)
	w.path = path
	return w, nil
}

func newWriter(f io.WriteCloser, buffer int) *Writer {
	w := &Writer{file: f, lines: make(chan []byte, max(buffer, 1)), done: make(chan struct{}), stop: make(chan struct{})}
	go w.run()
	return w
}

type standard struct{ *os.File }

func (standard) Close() error { return nil }

func open(path string) (io.WriteCloser, error) {
	if path == Stdout {
		return standard{os.Stdout}, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return f, nil
}

// Buffer returns an empty buffer for a line.
func (w *Writer) Buffer() []byte {
	if b, ok := w.spare.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 512)
}

// Write takes a line, which must end in a newline, and owns it from here on. It
// never waits.
func (w *Writer) Write(line []byte) {
	select {
	case w.lines <- line:
	default:
		w.dropped.Add(1)
	}
}

// Dropped returns how many lines were dropped because the buffer was full.
func (w *Writer) Dropped() int64 { return w.dropped.Load() }

// Failed returns how many lines the disk refused.
func (w *Writer) Failed() int64 { return w.failed.Load() }

// Reopen opens the file anew, under its name, after the old one was renamed.
// When that fails the old file stays in use.
func (w *Writer) Reopen() error {
	f, err := open(w.path)
	if err != nil {
		return err
	}
	w.mu.Lock()
	old := w.file
	w.file = f
	w.mu.Unlock()
	return old.Close()
}

// Close writes what waits and closes the file.
func (w *Writer) Close() error {
	w.closed.Do(func() { close(w.stop) })
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file.Close()
}

// run writes lines, as many as are there at once.
func (w *Writer) run() {
	defer close(w.done)
	for {
		select {
		case line := <-w.lines:
			w.batch(line)
		case <-w.stop:
			select {
			case line := <-w.lines:
				w.batch(line)
				continue
			default:
			}
			return
		}
	}
}

func (w *Writer) batch(line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := bufio.NewWriterSize(w.file, 64<<10)
	for n := 1; ; n++ {
		_, _ = out.Write(line) // its error stays and is told by Flush
		w.spare.Put(&line)
		select {
		case line = <-w.lines:
			if n < 1024 {
				continue
			}
			_, _ = out.Write(line)
			n++
		default:
		}
		if out.Flush() != nil {
			w.failed.Add(int64(n))
		}
		return
	}
}
