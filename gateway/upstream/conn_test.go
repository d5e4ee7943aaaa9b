package upstream

import (
	"errors"
	"net"
	"os"
	"slices"
	"testing"
	"time"
)

// scripted is a connection whose reads end as told. It keeps the read deadlines
// that were set.
type scripted struct {
	net.Conn
	set   []time.Time
	reads []error
}

func (s *scripted) SetReadDeadline(t time.Time) error {
	s.set = append(s.set, t)
	return nil
}

func (s *scripted) Read(p []byte) (int, error) {
	err := s.reads[0]
	s.reads = s.reads[1:]
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// TestDeadlineLags: the deadline that is set is moved when it has to come
// earlier and when it has fired too early, and never lets a read wait longer
// than it may.
func TestDeadlineLags(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	fires := os.ErrDeadlineExceeded
	s := &scripted{}
	c := newConn(s, s, 16)
	for _, step := range []struct {
		name   string
		before int // 0: as it is
		reads  []error
		err    error
		set    []time.Time // in this step
	}{
		{"first", 10, []error{nil}, nil, []time.Time{at(10)}},
		{"later", 20, []error{nil}, nil, nil},
		{"later again", 30, []error{nil}, nil, nil},
		{"fires too early", 0, []error{fires, nil}, nil, []time.Time{at(30)}},
		{"fires when due", 0, []error{fires}, fires, nil},
		{"fires too early, then when due", 40, []error{fires, fires}, fires, []time.Time{at(40)}},
		{"earlier", 25, []error{fires}, fires, []time.Time{at(25)}},
		{"another failure", 50, []error{net.ErrClosed}, net.ErrClosed, nil},
	} {
		s.set, s.reads = nil, step.reads
		if step.before > 0 {
			if err := c.readBefore(at(step.before)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := (source{c}).Read(make([]byte, 1)); !errors.Is(err, step.err) || step.err == nil && err != nil {
			t.Errorf("%s: %v, want %v", step.name, err, step.err)
		}
		if !slices.Equal(s.set, step.set) || len(s.reads) > 0 {
			t.Errorf("%s: set %v, want %v; %d reads left", step.name, s.set, step.set, len(s.reads))
		}
	}
	// An interruption is not taken for a deadline that fired too early, nor
	// undone by one that is set after it.
	s.set, s.reads = nil, []error{fires}
	c.interrupt()
	if _, err := (source{c}).Read(make([]byte, 1)); !errors.Is(err, fires) || len(s.set) != 1 {
		t.Errorf("interrupted: %v, set %v", err, s.set)
	}
	if err := c.readBefore(at(1)); !errors.Is(err, errInterrupted) {
		t.Errorf("a deadline after the interruption: %v", err)
	}
}
