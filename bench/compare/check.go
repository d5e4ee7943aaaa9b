package compare

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"tollgate/bench"
)

// check makes one call of each kind and compares the answer with what the
// upstream sent: a target that answers wrongly is not measured.
func (t *target) check(ctx context.Context, s shape) error {
	for _, stream := range []bool{false, true} {
		if stream && !t.in(scenarioStream) {
			continue
		}
		resp, body, err := once(ctx, t.call(stream))
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		if err := t.judge(resp, body, s, stream); err != nil {
			return fmt.Errorf("%s answers wrongly: %w", t, err)
		}
	}
	return nil
}

// judge compares one answer with the upstream's.
func (t *target) judge(resp *http.Response, body string, s shape, stream bool) error {
	want := s.answer()
	if stream {
		want = s.streamed()
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %.300s", resp.Status, body)
	case t.charge != "" && !stream && resp.Header.Get("X-Tollgate-Charged") != t.charge:
		return fmt.Errorf("X-Tollgate-Charged is %q in place of %q: the call is not counted", resp.Header.Get("X-Tollgate-Charged"), t.charge)
	case t.exact && body != want:
		return fmt.Errorf("a body of %d bytes that differs from the upstream's of %d", len(body), len(want))
	case t.exact:
		return nil
	case stream:
		if n := strings.Count(body, "data: "); n != s.Chunks+endEvents || !strings.HasSuffix(strings.TrimSpace(body), "data: [DONE]") {
			return fmt.Errorf("a stream of %d events in place of %d", n, s.Chunks+endEvents)
		}
		return nil
	}
	return sameAnswer(body, want)
}

// sameAnswer compares what matters of two chat completions.
func sameAnswer(got, want string) error {
	type completion struct {
		Choices []struct{ Message struct{ Content string } }
		Usage   struct {
			TotalTokens int `json:"total_tokens"`
		}
	}
	var g, w completion
	if err := errors.Join(json.Unmarshal([]byte(got), &g), json.Unmarshal([]byte(want), &w)); err != nil {
		return err
	}
	if len(g.Choices) != 1 || g.Choices[0] != w.Choices[0] || g.Usage != w.Usage {
		return fmt.Errorf("another completion than the upstream's: %.300s", got)
	}
	return nil
}

// once makes one call the way the generator does and reads the answer with
// net/http, which knows HTTP better than the generator.
func once(ctx context.Context, s bench.Scenario) (*http.Response, string, error) {
	render, addr, err := s.Renderer()
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, "", err
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(until); err != nil {
			return nil, "", err
		}
	}
	request, err := render(time.Now(), 1)
	if err != nil {
		return nil, "", err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp, string(body), errors.Join(err, resp.Body.Close())
}
