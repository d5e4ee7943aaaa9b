package app

import (
	"context"
	"fmt"
	"net/netip"

	"tollgate/gateway"
	"tollgate/gateway/accesslog"
	"tollgate/gateway/idempotency"
	"tollgate/gateway/idempotency/redisanswers"
	"tollgate/gateway/limit"
	"tollgate/gateway/limit/redisboard"
	"tollgate/gateway/trace"
	"tollgate/internal/config"
	"tollgate/internal/directory"
	"tollgate/quota/redisstore"
)

// openGateway makes the gateway of a node out of its settings.
func (a *App) openGateway(ctx context.Context, n *node) error {
	cfg, g := a.cfg, a.cfg.Gateway
	deps := gateway.Deps{
		Admitter: admitter{n.engine, n.journal, &n.backlogFull}, Recorder: n.record, Log: a.log, Metrics: a.reg,
	}
	lists := map[string][]netip.Prefix{}
	for name, texts := range map[string][]string{"proxies": g.TrustedProxies, "allow": g.Allow, "deny": g.Deny} {
		var err error
		if lists[name], err = networks(texts); err != nil {
			return err
		}
	}
	answers, err := a.share(n, &deps)
	if err != nil {
		return err
	}
	if err := a.openAccessLog(&deps); err != nil {
		return err
	}
	if err := a.openTracer(ctx, n, &deps); err != nil {
		return err
	}
	n.gateway = gateway.New(gateway.Config{
		ErrorPrefix: g.ErrorPrefix, MaxBody: int64(g.MaxBody), MaxSignedBody: int64(g.MaxSignedBody), MaxUpload: int64(g.MaxUpload), MaxSession: g.MaxSession, MaxHeader: int(g.MaxHeader),
		ReadTimeout: g.ReadTimeout, IdleTimeout: g.IdleTimeout, WriteTimeout: g.WriteTimeout,
		ConnectTimeout: g.ConnectTimeout, FirstByteTimeout: g.FirstByteTimeout, StreamIdleTimeout: g.StreamIdleTimeout, TotalTimeout: g.TotalTimeout,
		MaxAnswerBuffer: int(g.MaxAnswerBuffer), SignatureSkew: g.SignatureSkew, TrustedProxies: lists["proxies"],
		PlainAppCode: g.PlainAppCode, PerCallSwitch: g.PerCallSwitch, HoldCap: g.HoldCap, HoldDefault: g.HoldDefault,
		HoldSlice: g.HoldSlice, CheckpointEvery: g.CheckpointEvery, CheckpointUnits: g.CheckpointUnits,
		DrainTimeout: g.DrainTimeout, DrainBytes: int64(g.DrainBytes), MaxDrains: g.MaxDrains,
		RecordFailed: g.RecordFailed, RecordRefused: g.RecordRefused,
		Region: cfg.Region, Node: n.journal.Node(), Now: a.opts.Now,
		HeaderTimeout: g.HeaderTimeout, MaxURI: int(g.MaxURI), Forwarded: g.Forwarded, Allow: lists["allow"], Deny: lists["deny"],
		Idempotency: gateway.IdempotencyConfig{Store: answers, MaxAnswer: int(g.Idempotency.MaxAnswer)},
		Limits: gateway.LimitConfig{
			Credential: limit.Rule(g.Limits.Credential), Subscription: limit.Rule(g.Limits.Subscription),
			Product: limit.Rule(g.Limits.Product), Address: limit.Rule(g.Limits.Address),
			MaxCalls: g.Limits.MaxCalls, MaxKeys: int(g.Limits.MaxKeys), Exchange: g.Limits.Exchange,
		},
	}, deps)
	return nil
}

func networks(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := directory.ParseNetwork(text)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// share sets up what gateways share through the quota store's Redis: the limits,
// and, where that is wanted, the answers kept for idempotency keys.
func (a *App) share(n *node, deps *gateway.Deps) (idempotency.Store, error) {
	g := a.cfg.Gateway
	var answers idempotency.Store
	if g.Idempotency.Store != "off" {
		answers = idempotency.NewLocal(g.Idempotency.Window, int64(g.Idempotency.Memory))
	}
	if a.cfg.Quota.Store.Reveal() == config.Embedded {
		return answers, nil
	}
	client, prefix, err := redisstore.Client(a.cfg.Quota.Store.Reveal())
	if err != nil {
		return nil, err
	}
	a.closers = append(a.closers, client.Close)
	deps.Board = redisboard.New(client, prefix, n.journal.Node(), 5*g.Limits.Exchange)
	if g.Idempotency.Store == "shared" {
		shared := redisanswers.New(client, prefix, g.Idempotency.Window, g.Idempotency.Lease)
		a.work.Go(func() { shared.Run(a.ctx) })
		answers = shared
	}
	return answers, nil
}

func (a *App) openAccessLog(deps *gateway.Deps) error {
	c := a.cfg.Gateway.AccessLog
	if c.File == "off" {
		return nil
	}
	w, err := accesslog.Open(c.File, int(c.Buffer))
	if err != nil {
		return hint(err, "name a file in a folder that is there in gateway.access_log.file, stdout, or off")
	}
	deps.AccessLog = w
	a.closers = append(a.closers, w.Close)
	a.onReload(func() error {
		if err := w.Reopen(); err != nil {
			return fmt.Errorf("the old access log stays in use: %w", err)
		}
		return nil
	})
	return nil
}

func (a *App) openTracer(ctx context.Context, n *node, deps *gateway.Deps) error {
	c := a.cfg.Gateway.Trace
	if c.Endpoint == "" {
		return nil
	}
	t, err := trace.New(ctx, trace.Config{Endpoint: c.Endpoint, Sample: c.Sample, Node: n.journal.Node(), Log: a.log})
	if err != nil {
		return hint(err, "correct gateway.trace.endpoint, or leave it empty")
	}
	deps.Tracer = t
	a.closers = append(a.closers, func() error {
		// What the receiver does not take in time is lost, which is no failure.
		ctx, cancel := context.WithTimeout(context.Background(), a.cfg.ShutdownTimeout/4)
		defer cancel()
		if err := t.Close(ctx); err != nil {
			a.log.Warn("spans were not sent", "error", err)
		}
		return nil
	})
	return nil
}
