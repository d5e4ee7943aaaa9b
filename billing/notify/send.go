package notify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"tollgate/internal/sqldb"
)

// delivery is a row of notify_delivery.
type delivery struct {
	ID, Message, Account, Category string
	Channel                        Channel
	Receiver, Target, Language     string
	Subject, Body                  string
	Attempts                       int64
	Digest                         bool
	Payload                        map[string]any // of a webhook, before it is written
}

const deliveryColumns = `id, message, account, category, channel, receiver, target, language, subject, body, attempts, digest`

func scanDelivery(row interface{ Scan(...any) error }) (d delivery, err error) {
	err = row.Scan(&d.ID, &d.Message, &d.Account, &d.Category, &d.Channel, &d.Receiver, &d.Target, &d.Language, &d.Subject, &d.Body, &d.Attempts, &d.Digest)
	return d, err
}

// pauses before each further try, by channel. Webhooks follow Standard Webhooks
// (75.6 hours in all).
var pauses = map[Channel][]time.Duration{
	Mail:    {time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 4 * time.Hour, 12 * time.Hour, 24 * time.Hour},
	SMS:     {10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute},
	Voice:   {time.Minute, 5 * time.Minute},
	Webhook: {5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour},
}

// Limits of sending.
const (
	sendBatch  = 100
	maxInMail  = 200              // messages in one mail
	sendLease  = 2 * time.Minute  // longer than any try
	noteTime   = 30 * time.Second // to write an outcome down after the caller left
	maxMessage = 500              // bytes of an error that are kept
	parallel   = 16               // tries at once, so that a dead server delays only its own
)

// SendDue tries what is due once, up to a batch, and returns how much it tried.
// Failures are noted and due again; they are no error.
func (s *Service) SendDue(ctx context.Context) (int, error) {
	rows, err := s.db.Query(ctx, fmt.Sprintf(`SELECT id, channel, receiver, category, digest FROM notify_delivery WHERE state = 'pending' AND due_ms <= $1 AND lease_ms <= $1 ORDER BY due_ms, id LIMIT %d`, sendBatch), sqldb.Ms(s.now()))
	if err != nil {
		return 0, fmt.Errorf("read what is due: %w", err)
	}
	var due []delivery
	type mailGroup struct {
		receiver, category string
		digest             bool
	}
	mails := make(map[mailGroup]bool) // what goes into one mail is taken once
	for rows.Next() {
		var d delivery
		if err := rows.Scan(&d.ID, &d.Channel, &d.Receiver, &d.Category, &d.Digest); err != nil {
			return 0, errors.Join(err, rows.Close())
		}
		if d.Channel == Mail {
			group := mailGroup{d.Receiver, d.Category, d.Digest}
			if mails[group] {
				continue
			}
			mails[group] = true
		}
		due = append(due, d)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, err
	}
	tried := make(chan bool)
	slots := make(chan struct{}, parallel)
	for _, d := range due {
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ok, err := s.try(ctx, d)
			if err != nil && ctx.Err() == nil {
				s.o.Log.Error("a notice cannot be sent", "delivery", d.ID, "error", err)
			}
			tried <- ok
		}()
	}
	n := 0
	for range due {
		if <-tried {
			n++
		}
	}
	return n, nil
}

// try takes one delivery, and for a mail those that may leave with it, sends,
// and notes the outcome. It reports whether it took it.
func (s *Service) try(ctx context.Context, due delivery) (bool, error) {
	batch, err := s.take(ctx, due)
	if err != nil || len(batch) == 0 {
		return false, err
	}
	d := batch[0]
	o := Outgoing{ID: d.ID, To: d.Target, Language: d.Language, Subject: d.Subject, Body: d.Body, At: s.now()}
	began := time.Now()
	var code string
	failed := s.prepare(ctx, d, batch, &o)
	if failed == nil {
		send, cancel := context.WithTimeout(ctx, s.o.SendTimeout)
		code, failed = s.o.Senders[d.Channel].Send(send, o)
		cancel()
	}
	if ctx.Err() != nil && failed != nil {
		return true, nil // shutdown: the lease ends, and another try follows
	}
	// Noted even if ctx just ended, so that it is not sent once more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTime)
	defer cancel()
	return true, s.note(ctx, batch, code, time.Since(began), failed)
}

// take leases a delivery that is still due, with the mails that go with it.
func (s *Service) take(ctx context.Context, due delivery) (batch []delivery, err error) {
	id := due.ID
	err = s.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		batch = nil
		if err := lockReceiver(ctx, tx, due); err != nil {
			return err
		}
		now := s.now()
		lease := sqldb.Ms(now.Add(sendLease))
		d, err := scanDelivery(tx.QueryRow(ctx, `UPDATE notify_delivery SET lease_ms = $1, attempts = attempts + 1 WHERE id = $2 AND state = 'pending' AND due_ms <= $3 AND lease_ms <= $3 RETURNING `+deliveryColumns,
			lease, id, sqldb.Ms(now)))
		if errors.Is(err, sql.ErrNoRows) {
			return nil // another process has it
		}
		if err != nil {
			return err
		}
		batch = append(batch, d)
		if d.Channel != Mail {
			return nil
		}
		// First tries only: a mail that was tried keeps its content, so that
		// who gets it twice gets the same. Those that are not due yet leave too.
		if d.Attempts > 1 {
			return s.again(ctx, tx, &batch, lease)
		}
		rows, err := tx.Query(ctx, fmt.Sprintf(`UPDATE notify_delivery SET lease_ms = $1, attempts = attempts + 1, batch = $2 WHERE id IN (
			SELECT id FROM notify_delivery WHERE receiver = $3 AND category = $4 AND channel = 'mail' AND digest = $5 AND state = 'pending' AND attempts = 0 AND lease_ms <= $6 AND id <> $2 ORDER BY id LIMIT %d)
			AND state = 'pending' AND attempts = 0 RETURNING `+deliveryColumns, maxInMail), lease, id, d.Receiver, d.Category, d.Digest, sqldb.Ms(now))
		if err != nil {
			return err
		}
		return appendDeliveries(&batch, rows)
	})
	return batch, err
}

// lockReceiver makes those who take or note mails of one receiver wait for each
// other: they lock many rows, which two of them would do in different orders.
func lockReceiver(ctx context.Context, tx *sqldb.Tx, d delivery) error {
	if d.Channel != Mail {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE notify_receiver SET name = name WHERE id = $1`, d.Receiver)
	return err
}

// again leases the mails that left with batch[0] before.
func (s *Service) again(ctx context.Context, tx *sqldb.Tx, batch *[]delivery, lease int64) error {
	rows, err := tx.Query(ctx, `UPDATE notify_delivery SET lease_ms = $1, attempts = attempts + 1 WHERE batch = $2 AND state = 'pending' RETURNING `+deliveryColumns, lease, (*batch)[0].ID)
	if err != nil {
		return err
	}
	return appendDeliveries(batch, rows)
}

func appendDeliveries(batch *[]delivery, rows *sql.Rows) error {
	defer rows.Close()
	for rows.Next() {
		d, err := scanDelivery(rows)
		if err != nil {
			return err
		}
		*batch = append(*batch, d)
	}
	return rows.Err()
}

// prepare completes what is sent for a batch.
func (s *Service) prepare(ctx context.Context, d delivery, batch []delivery, o *Outgoing) error {
	switch d.Channel {
	case Mail:
		o.Unsubscribe = s.unsubscribeLink(d.Receiver, d.Category)
		if len(batch) > 1 {
			o.Subject, o.Body = gather(d.Language, batch)
		}
	case Webhook:
		e, err := s.endpoint(ctx, s.db, d.Account, d.Receiver)
		if err != nil {
			return &Refusal{Code: "removed", Err: err}
		}
		if e.State != "active" {
			return &Refusal{Code: "disabled", Err: errors.New("the endpoint is disabled")}
		}
		if o.Secrets, err = s.secrets(e); err != nil {
			return err
		}
		o.ID, o.Payload = d.Message, []byte(d.Body)
	}
	return nil
}

// gather makes one mail of several.
func gather(lang string, batch []delivery) (subject, body string) {
	c, _ := category(batch[0].Category)
	var b strings.Builder
	if lang == "zh" {
		subject = fmt.Sprintf("%d 条消息：%s", len(batch), batch[0].Subject)
		fmt.Fprintf(&b, "“%s”类消息共 %d 条：\n", c.Zh, len(batch))
	} else {
		subject = fmt.Sprintf("%d messages: %s", len(batch), batch[0].Subject)
		fmt.Fprintf(&b, "%d messages of category \"%s\":\n", len(batch), c.En)
	}
	for i, d := range batch {
		fmt.Fprintf(&b, "\n%d. %s\n", i+1, d.Subject)
	}
	for i, d := range batch {
		fmt.Fprintf(&b, "\n———\n%d. %s\n\n%s\n", i+1, d.Subject, d.Body)
	}
	return subject, strings.TrimRight(b.String(), "\n")
}

// note writes down the outcome of a try for all that was in it.
func (s *Service) note(ctx context.Context, batch []delivery, code string, took time.Duration, failed error) error {
	d := batch[0]
	state, last, due, done := "sent", code, s.now(), sqldb.Ms(s.now())
	var refused *Refusal
	text := ""
	if failed != nil {
		text = failed.Error()
		if len(text) > maxMessage {
			text = text[:maxMessage]
		}
		last = text
		if errors.As(failed, &refused) && refused.Code != "" {
			code = refused.Code
		}
		steps := pauses[d.Channel]
		switch n := int(d.Attempts) - 1; {
		case refused != nil || n >= len(steps):
			state = "failed"
		default:
			state, done = "pending", 0
			pause := steps[n] + time.Duration(s.o.Jitter()*float64(steps[n])/10)
			var later *Delay
			if errors.As(failed, &later) {
				pause = max(pause, min(later.After, steps[len(steps)-1]))
			}
			due = due.Add(pause)
		}
	}
	return s.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if err := lockReceiver(ctx, tx, d); err != nil {
			return err
		}
		for _, m := range batch {
			if _, err := tx.Exec(ctx, `UPDATE notify_delivery SET state = $1, last = $2, due_ms = $3, lease_ms = 0, done_ms = $4 WHERE id = $5 AND state = 'pending'`, state, last, sqldb.Ms(due), done, m.ID); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO notify_attempt (delivery, n, at_ms, took_ms, ok, code, error) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (delivery, n) DO NOTHING`,
				m.ID, m.Attempts, sqldb.Ms(s.now()), took.Milliseconds(), failed == nil, code, text); err != nil {
				return err
			}
		}
		if state == "failed" {
			return s.gaveUp(ctx, tx, d, code, refused)
		}
		return nil
	})
}

// gaveUp tells the account that an address of theirs does not work (people's
// section 4): a mail address the server refused, an endpoint that is gone or
// never answered.
func (s *Service) gaveUp(ctx context.Context, tx *sqldb.Tx, d delivery, code string, refused *Refusal) error {
	switch {
	case d.Channel == Mail && refused != nil && refused.Gone:
		res, err := tx.Exec(ctx, `UPDATE notify_receiver SET mail_failing = $1 WHERE id = $2 AND mail = $3 AND mail_failing = ''`, code, d.Receiver, d.Target)
		if err != nil {
			return err
		}
		if n, _ := res.RowsAffected(); n == 0 {
			return nil
		}
		var name string
		if err := tx.QueryRow(ctx, `SELECT name FROM notify_receiver WHERE id = $1`, d.Receiver).Scan(&name); err != nil {
			return err
		}
		_, err = s.Post(ctx, tx, Event{
			Account: d.Account, Kind: "address_failing", Dedup: d.Receiver + "/" + d.ID, Object: d.Receiver,
			Data: map[string]any{"receiver": name, "address": maskMail(d.Target), "code": code, "link": "/messages/settings"},
		})
		return err
	case d.Channel == Webhook && code != "disabled" && code != "removed":
		res, err := tx.Exec(ctx, `UPDATE notify_endpoint SET state = 'disabled', reason = $1 WHERE id = $2 AND state = 'active'`, code, d.Receiver)
		if err != nil {
			return err
		}
		if n, _ := res.RowsAffected(); n == 0 {
			return nil
		}
		_, err = s.Post(ctx, tx, Event{
			Account: d.Account, Kind: "endpoint_disabled", Dedup: d.Receiver + "/" + d.ID, Object: d.Receiver,
			Data: map[string]any{"url": d.Target, "reason": code, "link": "/messages/settings"},
		})
		return err
	}
	return nil
}

// maskMail shows an address so that its owner knows it.
func maskMail(address string) string {
	name, domain, ok := strings.Cut(address, "@")
	if !ok || name == "" {
		return "…"
	}
	return string([]rune(name)[:1]) + "…@" + domain
}
