package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"tollgate/admin"
	"tollgate/admin/console"
	"tollgate/admin/seal"
	"tollgate/billing"
	"tollgate/billing/notify"
	"tollgate/internal/config"
	"tollgate/internal/directory"
	"tollgate/internal/jobs"
	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/metering/rating"
	"tollgate/quota"
	"tollgate/quota/recovery"
)

// control is the admin role: SQL store, billing and the admin API.
type control struct {
	app     *App
	db      *sqldb.DB
	billing *billing.Service
	server  *admin.Server
	console *console.Console
	quota   quotaReader
	keeper  *recovery.Keeper
	usage   usageStore
	figures atomic.Pointer[figures]
	past    history       // of both stores, where the gateways are other processes
	changed chan struct{} // something was sold: the figures are old

	crossings *crossings
	jobs      *jobs.Runner
	notices   *notify.Service
	rating    *rating.Rater
}

func (a *App) openControl(ctx context.Context, store quotaStore) (*control, error) {
	cfg := a.cfg
	c := &control{app: a, quota: quotaReader{store: store}, changed: make(chan struct{}, 1)}
	var engine *quota.Engine
	if a.node != nil {
		engine, c.usage = a.node.engine, a.node.usage
		c.quota.engine = engine
	} else {
		u, err := openUsage(ctx, cfg, a.log, a.now)
		if err != nil {
			return nil, err
		}
		a.closers = append(a.closers, u.Close)
		c.usage = u
	}
	var err error
	if c.db, err = openSQL(ctx, cfg, a.log); err != nil {
		return nil, err
	}
	a.closers = append(a.closers, c.db.Close)
	box, err := seal.Load(cfg.MasterKey.Reveal(), cfg.Data)
	if err != nil {
		return nil, err
	}
	if c.notices, err = a.openNotices(ctx, c.db, box); err != nil {
		return nil, err
	}
	lots := &lotStore{store: store, engine: engine}
	c.billing, err = billing.New(ctx, billing.Options{
		DB: c.db, Lots: lots, Watches: watchStore{store}, Now: a.now, Logger: a.log,
		StoreAway: packagesAway(cfg.Quota),
		Notices:   c.notices, Quota: c.quota, Pace: pace{c.usage}, Products: catalogue{c}, Region: cfg.Region,
		Hooks: billing.Hooks{
			Changed: admin.Touch,
			Committed: func() {
				if c.server != nil {
					c.server.Wake()
				}
				select {
				case c.changed <- struct{}{}:
				default:
				}
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("billing: %w", err)
	}
	if err := c.openKeeper(ctx, store); err != nil {
		return nil, err
	}
	lots.keeper = c.keeper
	c.crossings = &crossings{outbox: store, keeper: c.billing, every: cfg.Quota.Crossings, log: a.log}
	if err := c.openJobs(ctx); err != nil {
		return nil, err
	}
	info := a.info()
	c.server, err = admin.New(ctx, admin.Config{
		Region: cfg.Region, FeedSecret: cfg.Feed.Secret.Reveal(), GatewayURL: info.GatewayURL,
		MaxAPIKeys: cfg.Admin.APIKeyLimit, MaxApplications: cfg.Admin.ApplicationLimit, MaxAppCodes: cfg.Admin.AppCodeLimit,
		SessionIdle: cfg.Admin.SessionIdle, SessionMax: cfg.Admin.SessionMax, ConfirmFor: cfg.Admin.ConfirmFor,
		SignInTries: cfg.Admin.SignInTries, SignInWindow: cfg.Admin.SignInWindow,
		CredentialLimits: directory.Limits{
			RequestsPerSecond: cfg.Gateway.Limits.Credential.RequestsPerSecond, RequestsPerMinute: cfg.Gateway.Limits.Credential.RequestsPerMinute,
			TokensPerMinute: cfg.Gateway.Limits.Credential.TokensPerMinute, Concurrency: cfg.Gateway.Limits.Credential.Concurrency,
		},
	}, admin.Deps{
		DB: c.db, Box: box, Billing: c.billing, Quota: c.quota, Usage: c.usage, Reconciler: reconciler{c}, Rebuilder: rebuilder{c.keeper}, Rating: c.rating,
		Messages: c.notices, Jobs: c.jobs, UsageSink: c.usage, Log: a.log, Now: a.now,
	})
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	c.console, err = console.New(console.Options{Admin: c.server, SecureCookies: cfg.Admin.SecureCookies, Log: a.log, Now: a.now})
	if err != nil {
		return nil, err
	}
	a.work.Go(func() {
		if err := c.billing.Run(a.ctx); err != nil {
			a.log.Error("deliveries to the quota store stopped", "error", err)
		}
	})
	a.work.Go(func() { c.crossings.run(a.ctx) })
	a.work.Go(func() {
		if err := c.billing.RunRepurchases(a.ctx); err != nil {
			a.log.Error("auto-repurchases stopped", "error", err)
		}
	})
	a.work.Go(func() {
		if err := c.notices.Run(a.ctx); err != nil {
			a.log.Error("messages are not sent any more", "error", err)
		}
	})
	a.work.Go(func() {
		if err := c.jobs.Run(a.ctx); err != nil {
			a.log.Error("jobs stopped", "error", err)
		}
	})
	a.reg.MustRegister(newControlCollector(c))
	return c, c.bootstrap(ctx)
}

// openJobs prepares what is due by the calendar.
func (c *control) openJobs(ctx context.Context) (err error) {
	a := c.app
	c.jobs, err = jobs.New(ctx, jobs.Options{DB: c.db, Now: a.now, Log: a.log})
	if err != nil {
		return err
	}
	c.rating, err = rating.New(ctx, rating.Options{
		DB: c.db, Usage: c.usage, Subscriptions: c.billing, Grace: a.cfg.Usage.RatingGrace, Lookback: a.cfg.Usage.RatingLookback, Now: a.now, Log: a.log,
	})
	if err != nil {
		return err
	}
	if err := c.jobs.Add(ctx, c.rating.Job()); err != nil {
		return err
	}
	return c.jobs.Add(ctx, jobs.Job{
		Name: "billing.remind_expiring", Schedule: jobs.Daily(10, 0, beijing), Run: c.billing.RemindExpiring,
	})
}

// begin starts what looks after the books, with its first figures in place.
func (c *control) begin(ctx context.Context) {
	if err := c.refresh(ctx); err != nil {
		c.app.log.Warn("the ledger could not be reconciled", "error", err)
	}
	c.app.work.Go(func() { c.watch(c.app.ctx) })
}

// operatorFile holds the first operator's token.
const operatorFile = "operator-token"

// bootstrap makes the first operator token and leaves it in the data folder,
// readable by its owner only; it is never logged.
func (c *control) bootstrap(ctx context.Context) error {
	if c.app.opts.Demo {
		return nil // the demo makes its own and tells it in demo.json
	}
	if err := c.setup(ctx); err != nil {
		return err
	}
	token, made, err := c.server.BootstrapOperator(ctx)
	if err != nil || !made {
		return err
	}
	path := filepath.Join(c.app.cfg.Data, operatorFile)
	if err := writeFile(path, []byte(token.Secret+"\n")); err != nil {
		return fmt.Errorf("keep the operator's token: %w", err)
	}
	c.app.log.Info("the first operator token was made", "file", path)
	return nil
}

// setupFile holds the token that makes the first operator in the browser.
const setupFile = "setup-token"

// setup leaves a fresh setup token in the data folder while nobody can sign in
// as an operator, and clears the file away after that. It is never logged.
func (c *control) setup(ctx context.Context) error {
	path := filepath.Join(c.app.cfg.Data, setupFile)
	token, made, err := c.server.SetupToken(ctx)
	if err != nil {
		return err
	}
	if !made {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the used setup token: %w", err)
		}
		return nil
	}
	if err := writeFile(path, []byte(token+"\n")); err != nil {
		return fmt.Errorf("keep the setup token: %w", err)
	}
	c.app.log.Info("nobody runs this marketplace yet: open the console and make the first operator", "path", console.Base+"/setup", "token_file", path)
	return nil
}

// packagesAway is the policy of packages whose spec names none.
func packagesAway(cfg config.Quota) lot.Away {
	if cfg.StoreAway != string(lot.AwayContinue) {
		return lot.Away{}
	}
	return lot.Away{Policy: lot.AwayContinue, Credit: cfg.StoreAwayCredit}
}
