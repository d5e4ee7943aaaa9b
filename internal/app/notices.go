package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/admin"
	"tollgate/admin/seal"
	"tollgate/billing/notify"
	"tollgate/billing/notify/smtp"
	"tollgate/billing/notify/webhook"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// beijing is the marketplace's zone (CONV-4).
var beijing = time.FixedZone("UTC+8", 8*60*60)

// openNotices opens the message centre with a sender for each channel that is
// set up.
func (a *App) openNotices(ctx context.Context, db *sqldb.DB, box *seal.Box) (*notify.Service, error) {
	cfg := a.cfg.Notify
	senders := map[notify.Channel]notify.Sender{
		notify.Webhook: webhook.New(webhook.Options{AllowPrivate: cfg.PrivateWebhooks}),
	}
	if cfg.SMTP.Reveal() != "" {
		mail, err := smtp.New(smtp.Options{URL: cfg.SMTP.Reveal(), From: cfg.From})
		if err != nil {
			return nil, hint(err, "correct notify.smtp and notify.from")
		}
		senders[notify.Mail] = mail
	}
	for channel, url := range map[notify.Channel]string{notify.SMS: cfg.SMSURL, notify.Voice: cfg.VoiceURL} {
		if url != "" {
			senders[channel] = webhook.NewPort(channel, url, cfg.ProviderSecret.Reveal(), 0)
		}
	}
	wait := cfg.GroupWait
	if wait == 0 {
		wait = -1 // none; 0 is the service's own default
	}
	n, err := notify.New(ctx, notify.Options{
		DB: db, Now: a.now, Log: a.log, Seal: sealer{box}, Senders: senders, BaseURL: cfg.ConsoleURL, GroupWait: wait,
	})
	if err != nil {
		return nil, fmt.Errorf("message centre: %w", err)
	}
	return n, nil
}

// sealer keeps secrets of webhook endpoints by the master key.
type sealer struct{ box *seal.Box }

func (s sealer) Seal(place, plain string) (string, error) { return s.box.Seal(place, plain), nil }

func (s sealer) Open(place, sealed string) (string, error) { return s.box.Open(place, sealed) }

// pace is the usage store as forecasts see it.
type pace struct{ usage usageStore }

func (p pace) Used(ctx context.Context, subscription string, unit usage.Unit, from, to time.Time) (int64, error) {
	res, err := p.usage.Query(ctx, metering.QueryInput{From: from, To: to, Filter: metering.Filter{Subscriptions: []string{subscription}}})
	if err != nil {
		return 0, err
	}
	return res.Total.Charged[unit] + res.Total.Overrun[unit], nil
}

// catalogue is the admin role's products as billing sees them. The admin role
// opens after billing, so it is looked up at each call.
type catalogue struct{ control *control }

func (c catalogue) Product(ctx context.Context, id string) (string, bool, error) {
	if c.control.server == nil {
		return "", false, errors.New("the catalogue is not open yet")
	}
	p, err := c.control.server.Product(ctx, id)
	if errors.Is(err, admin.ErrNotFound) {
		return "", false, nil
	}
	return p.Name, p.Published, err
}
