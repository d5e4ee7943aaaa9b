package notify

import (
	"context"
	"fmt"
	"time"

	"tollgate/internal/sqldb"
)

// Message is one row of an inbox.
type Message struct {
	ID       string
	Kind     string
	Category string
	Object   string
	Text     Text // in the language that was asked for
	Created  time.Time
	Read     time.Time // zero: not yet
}

// Inbox returns an account's messages, newest first, from before the id after
// ("" for the newest), up to limit (default 50, at most 200).
func (s *Service) Inbox(ctx context.Context, account, lang, after string, unread bool, limit int) ([]Message, error) {
	if limit <= 0 {
		limit = 50
	}
	query, args := `SELECT id, kind, category, object, texts, created_ms, read_ms FROM notify_message WHERE account = $1`, []any{account}
	if after != "" {
		args = append(args, after)
		query += fmt.Sprintf(` AND id < $%d`, len(args))
	}
	if unread {
		query += ` AND read_ms = 0`
	}
	rows, err := s.db.Query(ctx, query+fmt.Sprintf(` ORDER BY id DESC LIMIT %d`, min(limit, 200)), args...)
	if err != nil {
		return nil, fmt.Errorf("read the inbox: %w", err)
	}
	defer rows.Close()
	var all []Message
	for rows.Next() {
		var m Message
		texts := map[string]Text{}
		var created, read int64
		if err := rows.Scan(&m.ID, &m.Kind, &m.Category, &m.Object, sqldb.JSON(&texts), &created, &read); err != nil {
			return nil, fmt.Errorf("read the inbox: %w", err)
		}
		if lang != "zh" {
			lang = "en"
		}
		m.Text, m.Created, m.Read = texts[lang], sqldb.Time(created), sqldb.Time(read)
		all = append(all, m)
	}
	return all, rows.Err()
}

// Unread counts an account's unread messages.
func (s *Service) Unread(ctx context.Context, account string) (n int, err error) {
	err = s.db.QueryRow(ctx, `SELECT count(*) FROM notify_message WHERE account = $1 AND read_ms = 0`, account).Scan(&n)
	return n, err
}

// MarkRead marks messages as read; none means all. It returns how many were
// not read before.
func (s *Service) MarkRead(ctx context.Context, account string, messages ...string) (int64, error) {
	var n int64
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		n = 0
		if len(messages) == 0 {
			res, err := tx.Exec(ctx, `UPDATE notify_message SET read_ms = $1 WHERE account = $2 AND read_ms = 0`, sqldb.Ms(s.now()), account)
			if err == nil {
				n, err = res.RowsAffected()
			}
			return err
		}
		for _, id := range messages {
			res, err := tx.Exec(ctx, `UPDATE notify_message SET read_ms = $1 WHERE account = $2 AND id = $3 AND read_ms = 0`, sqldb.Ms(s.now()), account, id)
			if err != nil {
				return err
			}
			changed, err := res.RowsAffected()
			if err != nil {
				return err
			}
			n += changed
		}
		return nil
	})
	return n, err
}

// Delivery is one row of the delivery log.
type Delivery struct {
	ID, Message, Account, Category string
	Channel                        Channel
	Receiver, Target               string
	Subject, State, Last           string
	Attempts                       []Attempt
	Due, Created, Done             time.Time
}

// Attempt is one try of a delivery.
type Attempt struct {
	N     int64
	At    time.Time
	Took  time.Duration
	OK    bool
	Code  string // SMTP code or HTTP status
	Error string
}

// LogFilter narrows the delivery log; empty fields match all.
type LogFilter struct {
	Account, Message, State string
	Channel                 Channel
	After                   string // id of the last row of the page before
	Limit                   int    // default 50, at most 200
}

// Log returns deliveries with their attempts, newest first (MSG-5).
func (s *Service) Log(ctx context.Context, f LogFilter) ([]Delivery, error) {
	query, args := `SELECT id, message, account, category, channel, receiver, target, subject, state, last, due_ms, created_ms, done_ms FROM notify_delivery WHERE 1 = 1`, []any{}
	for _, c := range []struct{ cond, value string }{
		{"account =", f.Account}, {"message =", f.Message}, {"state =", f.State}, {"channel =", string(f.Channel)}, {"id <", f.After},
	} {
		if c.value != "" {
			args = append(args, c.value)
			query += fmt.Sprintf(" AND %s $%d", c.cond, len(args))
		}
	}
	limit := min(f.Limit, 200)
	if limit <= 0 {
		limit = 50
	}
	rows, err := s.db.Query(ctx, query+fmt.Sprintf(` ORDER BY id DESC LIMIT %d`, limit), args...)
	if err != nil {
		return nil, fmt.Errorf("read the delivery log: %w", err)
	}
	defer rows.Close()
	var all []Delivery
	for rows.Next() {
		var d Delivery
		var due, created, done int64
		if err := rows.Scan(&d.ID, &d.Message, &d.Account, &d.Category, &d.Channel, &d.Receiver, &d.Target, &d.Subject, &d.State, &d.Last, &due, &created, &done); err != nil {
			return nil, fmt.Errorf("read the delivery log: %w", err)
		}
		d.Due, d.Created, d.Done = sqldb.Time(due), sqldb.Time(created), sqldb.Time(done)
		all = append(all, d)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Attempts, err = s.attempts(ctx, all[i].ID); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *Service) attempts(ctx context.Context, id string) ([]Attempt, error) {
	rows, err := s.db.Query(ctx, `SELECT n, at_ms, took_ms, ok, code, error FROM notify_attempt WHERE delivery = $1 ORDER BY n`, id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Attempt
	for rows.Next() {
		var a Attempt
		var at, took int64
		if err := rows.Scan(&a.N, &at, &took, &a.OK, &a.Code, &a.Error); err != nil {
			return nil, err
		}
		a.At, a.Took = sqldb.Time(at), time.Duration(took)*time.Millisecond
		all = append(all, a)
	}
	return all, rows.Err()
}

// Resend makes a delivery due now: one that failed or was sent, for one more
// try, and one that was unsent if its channel has a sender meanwhile.
func (s *Service) Resend(ctx context.Context, id string) error {
	err := s.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var channel Channel
		var state string
		if err := tx.QueryRow(ctx, `SELECT channel, state FROM notify_delivery WHERE id = $1`, id).Scan(&channel, &state); err != nil {
			return fmt.Errorf("%w: delivery %s", ErrNotFound, id)
		}
		if s.o.Senders[channel] == nil {
			return invalid("this installation sends no %s: set it up first", channel)
		}
		if state == "pending" {
			_, err := tx.Exec(ctx, `UPDATE notify_delivery SET due_ms = $1 WHERE id = $2 AND state = 'pending'`, sqldb.Ms(s.now()), id)
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE notify_delivery SET state = 'pending', batch = '', due_ms = $1, done_ms = 0 WHERE id = $2 AND state <> 'pending'`, sqldb.Ms(s.now()), id)
		return err
	})
	if err == nil {
		s.wake()
	}
	return err
}
