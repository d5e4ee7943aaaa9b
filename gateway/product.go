package gateway

import (
	"fmt"
	"reflect"
	"time"

	"tollgate/gateway/upstream"
	"tollgate/internal/directory"
)

// compileProduct makes a product of a directory row. Targets are taken from
// kept where one is the same; was is the product of the table before, nil when
// it is new: where its upstreams and how they are used have not changed, it
// gives all that is known of them.
func (g *Gateway) compileProduct(d *directory.Product, kept map[string]*upstream.Target, was *product) (*product, error) {
	p := &product{Product: *d, llm: d.Kind == directory.KindLLM, retry: newRetry(&d.Traffic, g.cfg.TotalTimeout)}
	var err error
	if p.limits, err = compileLimits(d.Policy, &g.cfg.Limits.Product, false); err != nil {
		return nil, err
	}
	if p.llm {
		if err := p.compileItems(); err != nil {
			return nil, err
		}
		p.models = models(d.Models)
	}
	if was != nil && reflect.DeepEqual(was.Upstreams, d.Upstreams) && reflect.DeepEqual(was.Traffic, d.Traffic) {
		p.upstream, p.group, p.retries, p.renames, p.checks = was.upstream, was.group, was.retries, was.renames, was.checks
		return p, nil
	}
	if len(d.Upstreams) > upstream.MaxMembers {
		return nil, fmt.Errorf("%d upstreams: have at most %d", len(d.Upstreams), upstream.MaxMembers)
	}
	if faults := d.Traffic.Faults(); len(faults) > 0 {
		return nil, fmt.Errorf("traffic.%s %s", faults[0].Field, faults[0].Text)
	}
	p.group, p.retries = upstream.NewGroup(groupConfig(&d.Traffic)), &retries{}
	ids := make(map[string]bool)
	for i := range d.Upstreams {
		u := &d.Upstreams[i]
		if ids[u.ID] {
			return nil, fmt.Errorf("two upstreams have the id %q", u.ID)
		}
		ids[u.ID] = true
		t := &target{id: u.ID}
		if err := t.setHeaders(u.Headers); err != nil {
			return nil, err
		}
		cfg := g.targetConfig(u, &d.Traffic)
		dest := kept[upstream.Identity(u.URL, cfg)]
		if dest == nil {
			if dest, err = upstream.NewTarget(u.URL, cfg); err != nil {
				return nil, err
			}
			kept[dest.Key()] = dest // it holds nothing until it is called
		}
		if len(u.Models) > 0 {
			t.models, p.renames = models(u.Models), true
		}
		t.Member = p.group.Add(dest, min(max(u.Weight, 1), 1<<16))
		p.upstream = append(p.upstream, t)
	}
	p.checks = g.newChecks(p)
	return p, nil
}

func models(list []directory.Model) map[string]string {
	m := make(map[string]string, len(list))
	for _, e := range list {
		m[e.Name] = e.Upstream
		if e.Upstream == "" {
			m[e.Name] = e.Name
		}
	}
	return m
}

// targetConfig is how an upstream is connected to.
func (g *Gateway) targetConfig(u *directory.Upstream, t *directory.Traffic) upstream.Config {
	return upstream.Config{
		ConnectTimeout:   directory.Millis(t.Timeouts.Connect, g.cfg.ConnectTimeout),
		FirstByteTimeout: directory.Millis(t.Timeouts.FirstByte, g.cfg.FirstByteTimeout),
		IdleTimeout:      directory.Millis(t.Timeouts.Idle, g.cfg.StreamIdleTimeout),
		WriteTimeout:     directory.Millis(t.Timeouts.Write, 0),
		KeepAlive:        directory.Millis(t.Pool.KeepAlive, 0),
		MaxAge:           directory.Millis(t.Pool.MaxAge, 0),
		MaxIdle:          t.Pool.MaxIdle,
		MaxConns:         t.Pool.MaxConns,
		ServerName:       u.TLS.ServerName,
		CA:               u.TLS.CA,
		SkipVerify:       u.TLS.SkipVerify,
	}
}

func groupConfig(t *directory.Traffic) upstream.GroupConfig {
	return upstream.GroupConfig{
		NoBreaker: t.Breaker.Off, BreakerFailures: t.Breaker.Failures,
		BreakerOpen: directory.Millis(t.Breaker.Open, 0), BreakerTrials: t.Breaker.Trials,
		NoOutlier: t.Outlier.Off, OutlierShare: t.Outlier.Share, OutlierCalls: t.Outlier.MinCalls,
		OutlierWindow: directory.Millis(t.Outlier.Window, 0), OutlierRest: directory.Millis(t.Outlier.Rest, 0),
		OutlierMaxRest: directory.Millis(t.Outlier.MaxRest, 0), OutlierMax: t.Outlier.MaxEjected,
		HealthyAfter: t.Check.Healthy, UnhealthyAfter: t.Check.Unhealthy,
		MaxLoad: t.Affinity.MaxLoad, BudgetPercent: t.Retry.Budget, BudgetMin: t.Retry.BudgetMin,
	}
}

// checks asks the upstreams of one product whether they are healthy.
type checks struct {
	stop    chan struct{}
	started bool
	run     func(stop <-chan struct{})
}

// newChecks returns the checks of p, nil when it wants none.
func (g *Gateway) newChecks(p *product) *checks {
	c := &p.Traffic.Check
	if c.Path == "" || len(p.upstream) == 0 {
		return nil
	}
	every := directory.Millis(c.Interval, 5*time.Second)
	timeout := directory.Millis(c.Timeout, 2*time.Second)
	return &checks{stop: make(chan struct{}), run: func(stop <-chan struct{}) {
		for i, t := range p.upstream {
			g.checking.Go(func() {
				// Several upstreams, and several gateways, are not asked at once.
				first := every * time.Duration(i) / time.Duration(len(p.upstream))
				g.check(t, &p.Upstreams[i], &p.Traffic, first, every, timeout, stop)
			})
		}
	}}
}
