package e2e

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
)

// arrival is one piece of a chunked body as the gateway wrote it.
type arrival struct {
	data string
	at   time.Duration // since the request was sent
}

// writes sends a request over a connection of its own and returns the chunks
// of the answer. A chunk of HTTP is one write of the gateway, however the
// network and this client's scheduling join them.
func writes(t *testing.T, req *http.Request) []arrival {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", req.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	dump, err := httputil.DumpRequestOut(req, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(dump); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	status, err := r.ReadString('\n')
	if err != nil || !strings.Contains(status, " 200 ") {
		t.Fatalf("status line %q, %v", status, err)
	}
	for line := status; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	var all []arrival
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d chunks: %v", len(all), err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			t.Fatalf("chunk size %q: %v", line, err)
		}
		at := time.Since(start)
		data := make([]byte, size+2) // and the line's end
		if _, err := io.ReadFull(r, data); err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			return all
		}
		all = append(all, arrival{string(data[:size]), at})
	}
}

// TestStreamsLeaveEventByEvent: 200 events that the upstream flushes one by one
// leave as 200 writes, the first at once, none held back for the next.
func TestStreamsLeaveEventByEvent(t *testing.T) {
	t.Parallel()
	const events, delay = 200, 10 * time.Millisecond
	n := tollgate.Start(t, tollgate.Options{})
	got := writes(t, chatRequest(t, n.Demo.LLM, streamBody, steer{
		"X-Mock-Chunks": strconv.Itoa(events), "X-Mock-Chunk-Delay": delay.String(),
	}))
	var text, merged int
	for _, piece := range got {
		n := strings.Count(piece.data, "data: ")
		text += n
		if n > 1 {
			merged++
		}
	}
	if text < events {
		t.Fatalf("%d events arrived in %d writes, want %d", text, len(got), events)
	}
	// On a machine that is busy with other tests the gateway may find two
	// events waiting now and then; writing them together is right then.
	if merged > events/20 {
		t.Errorf("%d events left in %d writes, %d of them with more than one event", text, len(got), merged)
	}
	first, last := got[0].at, got[len(got)-1].at
	if last < events*delay*9/10 {
		t.Errorf("the last of %d events came after %s: the upstream did not pause %s between them, so this test shows nothing", events, last, delay)
	}
	if first > last/2 {
		t.Errorf("the first event came after %s of %s", first, last)
	}
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, 1)
}

// TestSplitAnswersAreCounted: usage is found in whatever pieces the body comes
// (the bypass of a body split in two).
func TestSplitAnswersAreCounted(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	p := n.Demo.LLMTokens
	want := int64(0)
	for _, body := range []string{chatBody, streamBody} {
		for _, split := range []string{"1", "2", "7", "64"} {
			headers := steer{"X-Mock-Tokens": "12,34", "X-Mock-Split": split, "X-Mock-Chunks": "5"}
			if status := chatStatus(t, p, body, headers); status != http.StatusOK {
				t.Fatalf("pieces of %s bytes: status %d", split, status)
			}
			want += 46
		}
	}
	waitUsed(t, n, p.SubscriptionID, want)
}

// chatStatus makes one call to its end and returns its status.
func chatStatus(t *testing.T, p tollgate.LLM, body string, headers steer) int {
	t.Helper()
	resp, _ := send(t, http.DefaultClient, chatRequest(t, p, body, headers))
	return resp.StatusCode
}

// TestLeavingClientsAreCharged: a client that hangs up mid-stream pays what the
// upstream says the call took (METER-11; the product drains).
func TestLeavingClientsAreCharged(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	p := n.Demo.LLMTokens
	const calls = 5
	for range calls {
		ctx, hangUp := context.WithCancel(t.Context())
		req := chatRequest(t, p, streamBody, steer{"X-Mock-Tokens": "12,34", "X-Mock-Chunks": "20", "X-Mock-Chunk-Delay": "10ms"}).WithContext(ctx)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		hangUp()
		resp.Body.Close()
	}
	waitUsed(t, n, p.SubscriptionID, calls*46)
}
