package bench

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// replies collects what a load tells of its calls.
type replies struct {
	mu   sync.Mutex
	list []Reply
}

func (r *replies) add(one Reply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, one)
}

// TestOnReplyTellsEveryCall holds that each call is told once, with the id of
// its answer and whether it came to its end.
func TestOnReplyTellsEveryCall(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	chat := url + "/v1/chat/completions"
	id := "X-Mock-Header: X-Request-Id: abc"
	var got replies
	load(t, LoadInput{Requests: 40, Connections: 2, OnReply: got.add, Scenarios: []Scenario{
		{Name: "plain", URL: chat, Body: chatBody, Headers: []string{id}},
		{Name: "stream", URL: chat, Body: streamBody, Stream: true, Headers: []string{id}},
		{Name: "endless", URL: chat, Body: streamBody, Stream: true, Headers: []string{id, "X-Mock-Quirk: no_done"}},
		{Name: "leaver", URL: chat, Body: streamBody, Stream: true, LeaveAfter: 3, Headers: []string{id, "X-Mock-Chunk-Delay: 5ms"}},
		{Name: "failed", URL: chat, Body: chatBody, Headers: []string{id, "X-Mock-Status: 503"}},
	}})
	want := map[string]Reply{
		"plain":   {Status: 200, Complete: true},
		"stream":  {Status: 200, Complete: true, Events: 13},
		"endless": {Status: 200, Events: 12},
		"leaver":  {Status: 200, Class: failLeft, Events: 3},
		"failed":  {Status: 503, Complete: true},
	}
	count := map[string]int{}
	for _, r := range got.list {
		w := want[r.Scenario]
		w.Scenario, w.RequestID = r.Scenario, "abc"
		if r.Scenario == "leaver" && r.Events > 3 { // more came in the same piece
			w.Events = r.Events
		}
		if r != w {
			t.Errorf("told %+v, want %+v", r, w)
		}
		count[r.Scenario]++
	}
	for name := range want {
		if count[name] != 8 {
			t.Errorf("%d calls of %s were told, want 8", count[name], name)
		}
	}
}

// TestOnlyRefusedConnectionsGoToTheNextHost holds that a call is never sent
// twice: the next host gets it only when the one before has seen nothing of it.
func TestOnlyRefusedConnectionsGoToTheNextHost(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refuses := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(url, "http://")
	r := load(t, LoadInput{Requests: 60, Connections: 3, Scenarios: []Scenario{{Name: "call", URL: url + "/x", Hosts: []string{refuses, addr}}}})
	if r.OK2xx != 60 || r.Errors != 0 || u.Stats().Total2xx != 60 {
		t.Errorf("with one host that refuses: %+v", r.Outcome)
	}
	u.Reset()
	r = load(t, LoadInput{Requests: 60, Connections: 3, Scenarios: []Scenario{{
		Name: "call", URL: url + "/x", Headers: []string{"X-Mock-Break: start"}, Hosts: []string{addr, addr},
	}}})
	if r.Classes[failClosed] != 60 || u.Stats().Dropped != 60 {
		t.Errorf("with hosts that close: %+v, %d arrived", r.Outcome, u.Stats().Dropped)
	}
	r = load(t, LoadInput{Requests: 6, Scenarios: []Scenario{{Name: "call", URL: url + "/x", Hosts: []string{refuses, refuses}}}})
	if r.Classes[failDial] != 6 || r.Unknown != 0 {
		t.Errorf("with hosts that all refuse: %+v", r.Outcome)
	}
}

// TestAClosedIdleConnectionIsReplaced holds that a server may close what lies
// idle without a call being lost.
func TestAClosedIdleConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	server := &http.Server{IdleTimeout: 20 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	r := load(t, LoadInput{Requests: 10, Connections: 1, Rate: 10, Scenarios: []Scenario{{Name: "call", URL: "http://" + ln.Addr().String()}}})
	if r.OK2xx != 10 || r.Errors != 0 {
		t.Errorf("%+v", r.Outcome)
	}
}

// TestUpstreamTellsItsAnswers holds that OnAnswer and OnUsage agree with the
// statistics.
func TestUpstreamTellsItsAnswers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	answers, tokens := map[string]int{}, map[string]int64{}
	u := NewUpstream(UpstreamConfig{
		OnAnswer: func(a Answer) {
			mu.Lock()
			defer mu.Unlock()
			answers[a.RequestID] = a.Status
		},
		OnUsage: func(id string, n int64) {
			mu.Lock()
			defer mu.Unlock()
			tokens[id] += n
		},
	})
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	chat := url + "/v1/chat/completions"
	load(t, LoadInput{Requests: 5, Connections: 1, Scenarios: []Scenario{
		{Name: "plain", URL: chat, Body: chatBody, Headers: []string{"X-Request-Id: plain", "X-Mock-Tokens: 3,4"}},
		{Name: "stream", URL: chat, Body: withUsage, Stream: true, Headers: []string{"X-Request-Id: stream", "X-Mock-Tokens: 5,6"}},
		{Name: "none", URL: chat, Body: chatBody, Headers: []string{"X-Request-Id: none", "X-Mock-Usage: none"}},
		{Name: "cut", URL: chat, Body: withUsage, Stream: true, Headers: []string{"X-Request-Id: cut", "X-Mock-Break: 2"}},
		{Name: "503", URL: chat, Body: chatBody, Headers: []string{"X-Request-Id: 503", "X-Mock-Status: 503"}},
	}})
	mu.Lock()
	defer mu.Unlock()
	for id, want := range map[string]struct {
		status int
		tokens int64
	}{"plain": {200, 7}, "stream": {200, 11}, "none": {200, 0}, "cut": {200, 0}, "503": {503, 0}} {
		if answers[id] != want.status || tokens[id] != want.tokens {
			t.Errorf("%s: status %d and %d tokens, want %+v", id, answers[id], tokens[id], want)
		}
	}
	if got := u.Stats().Usage.TotalTokens; got != 18 {
		t.Errorf("the statistics say %d tokens, want 18", got)
	}
}
