package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// Event is something an account is told.
type Event struct {
	Account string
	Kind    string
	// Dedup makes it the same event: one message per account, kind and Dedup,
	// for ever.
	Dedup  string
	Object string         // id of what it is about, or ""
	Data   map[string]any // variables of the kind's texts, see Kinds
}

// Post writes the event's message and its deliveries within tx and reports
// whether it was new. They are sent after the commit.
func (s *Service) Post(ctx context.Context, tx *sqldb.Tx, e Event) (fresh bool, err error) {
	k, ok := kind(e.Kind)
	if !ok || e.Account == "" || e.Dedup == "" {
		return false, invalid("an event needs an account, a known kind and a dedup key: %q %q %q", e.Account, e.Kind, e.Dedup)
	}
	cat, _ := category(k.Category)
	now := s.now()
	m := message{ID: ids.New(now), Account: e.Account, Kind: e.Kind, Category: cat.Name, Object: e.Object, Texts: map[string]Text{}, Created: now}
	for _, lang := range Languages {
		if m.Texts[lang], err = render(e.Kind, lang, e.Data); err != nil {
			return false, err
		}
	}
	res, err := tx.Exec(ctx, `INSERT INTO notify_message (id, account, kind, category, dedup, object, data, texts, created_ms, read_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0) ON CONFLICT (account, kind, dedup) DO NOTHING`,
		m.ID, m.Account, m.Kind, m.Category, e.Dedup, e.Object, sqldb.JSON(e.Data), sqldb.JSON(m.Texts), sqldb.Ms(now))
	if err != nil {
		return false, fmt.Errorf("write a message: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	link, _ := e.Data["link"].(string)
	receivers, err := s.receivers(ctx, tx, e.Account)
	if err != nil {
		return false, err
	}
	for _, r := range receivers {
		set, err := s.setting(ctx, tx, r, cat)
		if err != nil {
			return false, err
		}
		if set.Frequency == Off {
			continue
		}
		for _, ch := range set.Channels {
			to := r.address(ch)
			if to == "" {
				continue
			}
			if err := s.enqueue(ctx, tx, m, cat, r.Language, delivery{Channel: ch, Receiver: r.ID, Target: to, Digest: set.Frequency == Daily && ch == Mail}, link); err != nil {
				return false, err
			}
		}
	}
	endpoints, err := s.endpoints(ctx, tx, e.Account)
	if err != nil {
		return false, err
	}
	for _, ep := range endpoints {
		if ep.State == "active" && (len(ep.Categories) == 0 || slices.Contains(ep.Categories, cat.Name)) {
			if err := s.enqueue(ctx, tx, m, cat, "en", delivery{Channel: Webhook, Receiver: ep.ID, Target: ep.URL, Payload: e.Data}, link); err != nil {
				return false, err
			}
		}
	}
	tx.AfterCommit(s.wake)
	return true, nil
}

// message is a row of notify_message.
type message struct {
	ID, Account, Kind, Category, Object string
	Texts                               map[string]Text
	Created                             time.Time
}

// enqueue writes one delivery of m.
func (s *Service) enqueue(ctx context.Context, tx *sqldb.Tx, m message, cat Category, lang string, d delivery, link string) error {
	text := m.Texts[lang]
	body, due, state := text.Body, m.Created, "pending"
	switch d.Channel {
	case Mail:
		due = due.Add(s.o.GroupWait)
		if d.Digest {
			due = s.nextDigest(m.Created)
		}
		body = s.letter(lang, cat, m, text.Body, link)
	case SMS, Voice:
		body = text.Subject
	case Webhook:
		payload, err := json.Marshal(map[string]any{"type": m.Kind, "timestamp": m.Created.Format(time.RFC3339Nano), "data": d.Payload})
		if err != nil {
			return err
		}
		if body = string(payload); len(body) > maxPayload {
			return fmt.Errorf("notify: payload of %s is %d bytes, more than %d", m.Kind, len(body), maxPayload)
		}
	}
	if s.o.Senders[d.Channel] == nil {
		state = "unsent"
	}
	_, err := tx.Exec(ctx, `INSERT INTO notify_delivery (id, message, account, category, channel, receiver, target, language, subject, body, state, attempts, due_ms, lease_ms, digest, batch, last, created_ms, done_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, $12, 0, $13, '', '', $14, 0)`,
		ids.New(m.Created), m.ID, m.Account, cat.Name, string(d.Channel), d.Receiver, d.Target, lang, text.Subject, body, state, sqldb.Ms(due), d.Digest, sqldb.Ms(m.Created))
	if err != nil {
		return fmt.Errorf("write a delivery: %w", err)
	}
	return nil
}

// maxPayload bounds a webhook's body (Standard Webhooks: below 20 kB).
const maxPayload = 20_000

// nextDigest returns the next instant at which digests leave.
func (s *Service) nextDigest(t time.Time) time.Time {
	y, m, d := t.In(beijing).Date()
	at := time.Date(y, m, d, s.o.DigestHour, 0, 0, 0, beijing)
	if !at.After(t) {
		at = at.AddDate(0, 0, 1)
	}
	return at.UTC()
}

// letter is the body of a mail: the text, where to go on, and why it came.
func (s *Service) letter(lang string, cat Category, m message, body, link string) string {
	var b strings.Builder
	b.WriteString(body)
	if link != "" && s.o.BaseURL != "" {
		fmt.Fprintf(&b, "\n\n%s%s", strings.TrimRight(s.o.BaseURL, "/"), link)
	}
	at := m.Created.In(beijing).Format("2006-01-02 15:04:05 (UTC+8)")
	if lang == "zh" {
		fmt.Fprintf(&b, "\n\n时间：%s\n您收到此邮件，是因为您是该账号“%s”类消息的接收人。\n消息编号：%s", at, cat.Zh, m.ID)
	} else {
		fmt.Fprintf(&b, "\n\nTime: %s\nYou get this because you receive the account's messages of category \"%s\".\nMessage id: %s", at, cat.En, m.ID)
	}
	return b.String()
}

// receivers returns the receivers of an account, its owner first.
func (s *Service) receivers(ctx context.Context, q querier, account string) ([]Receiver, error) {
	rows, err := q.Query(ctx, `SELECT `+receiverColumns+` FROM notify_receiver WHERE account = $1 ORDER BY owner DESC, id`, account)
	if err != nil {
		return nil, fmt.Errorf("read receivers: %w", err)
	}
	defer rows.Close()
	var all []Receiver
	for rows.Next() {
		r, err := scanReceiver(rows)
		if err != nil {
			return nil, fmt.Errorf("read receivers: %w", err)
		}
		all = append(all, r)
	}
	return all, errors.Join(rows.Err())
}
