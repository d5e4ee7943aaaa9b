package gateway

import (
	"bytes"
	"slices"
	"time"

	"tollgate/gateway/upstream"
	"tollgate/internal/directory"
)

// changeChecks starts the active checks of products that are new in t, and
// stops those of products that are no longer. g.swap is held.
func (g *Gateway) changeChecks(old, t *directoryTable) {
	running := make(map[*checks]bool)
	for _, p := range t.products {
		c := p.checks
		if c == nil {
			continue
		}
		running[c] = true
		if !c.started && !g.draining.Load() {
			c.started = true
			c.run(c.stop)
		}
	}
	if old == nil {
		return
	}
	for _, p := range old.products {
		if c := p.checks; c != nil && c.started && !running[c] {
			c.started = false
			close(c.stop)
		}
	}
}

// stopChecks ends all active checks.
func (g *Gateway) stopChecks() {
	g.swap.Lock()
	defer g.swap.Unlock()
	if t := g.table.Load(); t != nil {
		for _, p := range t.products {
			if c := p.checks; c != nil && c.started {
				c.started = false
				close(c.stop)
			}
		}
	}
	g.checking.Wait()
}

// check asks one upstream every interval until stop is closed. It has a target
// of its own: a check waits for no place among the calls, and a call never for
// a check's time limit.
func (g *Gateway) check(t *target, u *directory.Upstream, tr *directory.Traffic, first, every, timeout time.Duration, stop <-chan struct{}) {
	cfg := g.targetConfig(u, tr)
	cfg.ConnectTimeout, cfg.FirstByteTimeout, cfg.IdleTimeout, cfg.WriteTimeout = timeout, timeout, timeout, timeout
	cfg.MaxConns, cfg.MaxIdle = 0, 1
	dest, err := upstream.NewTarget(u.URL, cfg)
	if err != nil {
		return // cannot be: the product's own target is made of the same
	}
	defer dest.Close()
	g.checking.Go(func() {
		<-stop
		dest.Abort() // a check under way does not hold up a shutdown
	})
	head := append([]byte("Host: "+dest.Host()+"\r\nUser-Agent: tollgate-health\r\n"), t.lines...)
	req := upstream.Request{Method: []byte("GET"), Target: []byte(dest.Base() + tr.Check.Path), Header: head, Total: timeout}
	if t.setsAgent {
		req.Header = bytes.Replace(head, []byte("User-Agent: tollgate-health\r\n"), nil, 1)
	}
	var ex upstream.Exchange
	timer := time.NewTimer(first)
	defer timer.Stop()
	for healthy := true; ; {
		select {
		case <-timer.C:
		case <-stop:
			return
		}
		ex.Begun = time.Time{}
		ok, why := probe(&ex, dest, &req, tr.Check.Statuses)
		t.SetHealthy(ok)
		if is := t.Status().Healthy; is != healthy {
			healthy = is
			if is {
				g.log.Info("an upstream is healthy again", "upstream", t.id, "host", t.Host())
			} else {
				g.log.Warn("an upstream fails its health checks", "upstream", t.id, "host", t.Host(), "error", why)
			}
		}
		timer.Reset(every)
	}
}

// maxCheckBody bounds what is read of the answer to a check.
const maxCheckBody = 64 << 10

// probe makes one check.
func probe(ex *upstream.Exchange, t *upstream.Target, req *upstream.Request, statuses []int) (ok bool, why any) {
	if err := ex.Do(t, req, nil); err != nil {
		return false, err
	}
	defer ex.Close()
	status := ex.Response.StatusCode()
	var buf [4 << 10]byte
	for n := 0; n < maxCheckBody && !ex.Ended(); {
		m, err := ex.Read(buf[:])
		if n += m; err != nil && !ex.Ended() {
			return false, err
		}
	}
	if len(statuses) > 0 {
		return slices.Contains(statuses, status), status
	}
	return status >= 200 && status < 400, status
}
