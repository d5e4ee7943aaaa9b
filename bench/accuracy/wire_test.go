package accuracy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echoServer answers each line with itself until the test ends.
func echoServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

// caller is one connection through a wire.
type caller struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialWire(t *testing.T, w *wire) *caller {
	t.Helper()
	c, err := net.Dial("tcp", w.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &caller{t, c, bufio.NewReader(c)}
}

// say sends a line.
func (c *caller) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// hear waits for a line.
func (c *caller) hear(within time.Duration) (string, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	line, err := c.in.ReadString('\n')
	if n := len(line); n > 0 {
		line = line[:n-1]
	}
	return line, err
}

const soon, patient = 50 * time.Millisecond, 10 * time.Second

func testWire(t *testing.T) *wire {
	t.Helper()
	w, err := newWire(echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w
}

// TestABrokenWireHoldsAndDeliversLate holds that a cut loses nothing: what was
// sent into it arrives when it is healed, as on a real network.
func TestABrokenWireHoldsAndDeliversLate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		f    fault
	}{
		{"cut", fault{noRequests: true, noReplies: true}},
		{"requests", fault{noRequests: true}},
		{"replies", fault{noReplies: true}},
	} {
		w := testWire(t)
		c := dialWire(t, w)
		c.say("one")
		if got, err := c.hear(patient); got != "one" || err != nil {
			t.Fatalf("%s: whole: %q, %v", tt.name, got, err)
		}
		w.set(tt.f)
		c.say("two")
		if got, err := c.hear(soon); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: broken: %q, %v", tt.name, got, err)
		}
		late := dialWire(t, w) // a new connection does not get through either
		late.say("three")
		if got, err := late.hear(soon); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: a new connection: %q, %v", tt.name, got, err)
		}
		w.set(fault{})
		if got, err := c.hear(patient); got != "two" || err != nil {
			t.Errorf("%s: healed: %q, %v", tt.name, got, err)
		}
		if got, err := late.hear(patient); got != "three" || err != nil {
			t.Errorf("%s: healed: %q, %v", tt.name, got, err)
		}
	}
}

// TestAWireCanLoseDelayAndRefuse holds the other faults.
func TestAWireCanLoseDelayAndRefuse(t *testing.T) {
	t.Parallel()
	w := testWire(t)
	c := dialWire(t, w)
	w.set(fault{delay: soon})
	began := time.Now()
	c.say("slow")
	if got, err := c.hear(patient); got != "slow" || err != nil || time.Since(began) < 2*soon {
		t.Errorf("delayed: %q, %v after %s", got, err, time.Since(began))
	}
	w.set(fault{lossy: 1})
	c.say("lost")
	if got, err := c.hear(patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("lossy: %q, %v, want a broken connection", got, err)
	}
	w.set(fault{})
	c = dialWire(t, w)
	c.say("here")
	if got, err := c.hear(patient); got != "here" || err != nil {
		t.Errorf("whole: %q, %v", got, err)
	}
	w.set(fault{refuse: true})
	if got, err := c.hear(patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("refused: %q, %v, want a reset", got, err)
	}
	again, err := net.Dial("tcp", w.ln.Addr().String())
	if err != nil {
		return // refused by the system already
	}
	defer again.Close()
	if _, err := (&caller{t, again, bufio.NewReader(again)}).hear(patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a new connection is not refused: %v", err)
	}
}
