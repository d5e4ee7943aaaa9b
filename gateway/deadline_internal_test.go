package gateway

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

func (s *scripted) Read([]byte) (int, error) {
	err := s.reads[0]
	s.reads = s.reads[1:]
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// TestClientDeadlineLags: the server's two deadlines for each request set none
// while the one that is set comes first, and no read waits longer than it may.
func TestClientDeadlineLags(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	fires := os.ErrDeadlineExceeded
	s := &scripted{}
	c := &plainConn{Conn: s, w: watch{raw: s, l: &listener{open: &openConns{}, readTimeout: time.Hour}}}
	for _, step := range []struct {
		name   string
		before []int // 0: never
		reads  []error
		err    error
		set    []time.Time
	}{
		{"header", []int{10}, []error{nil}, nil, []time.Time{at(10)}},
		{"idle, then header", []int{75, 20}, []error{nil}, nil, nil},
		{"idle", []int{85}, []error{fires, nil}, nil, []time.Time{at(85)}},
		{"header comes before", []int{30}, []error{fires}, fires, []time.Time{at(30)}},
		{"no deadline", []int{0}, []error{fires, nil}, nil, []time.Time{{}}},
		{"one after none", []int{40}, []error{fires}, fires, []time.Time{at(40)}},
	} {
		s.set, s.reads = nil, step.reads
		for _, b := range step.before {
			until := time.Time{}
			if b > 0 {
				until = at(b)
			}
			if err := c.SetReadDeadline(until); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, step.err) || step.err == nil && err != nil {
			t.Errorf("%s: %v, want %v", step.name, err, step.err)
		}
		if !slices.Equal(s.set, step.set) || len(s.reads) > 0 {
			t.Errorf("%s: set %v, want %v; %d reads left", step.name, s.set, step.set, len(s.reads))
		}
	}
}
