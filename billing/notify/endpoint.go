package notify

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/url"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// Endpoint is a buyer's address that gets messages as signed requests, after
// Standard Webhooks 1.0.0.
type Endpoint struct {
	ID         string
	Account    string
	URL        string
	Categories []string // empty: all
	State      string   // active or disabled
	Reason     string   // why it is disabled
	Created    time.Time

	secret, previous string // sealed
	previousUntil    time.Time
}

// Limits of endpoints.
const (
	maxEndpoints = 10
	// rotation is how long the old secret signs beside the new one.
	rotation = 24 * time.Hour
)

// AddEndpoint makes an endpoint and returns it with its secret, which is shown
// this once.
func (s *Service) AddEndpoint(ctx context.Context, e Endpoint) (_ Endpoint, secret string, err error) {
	if s.o.Seal == nil {
		return e, "", invalid("this installation has no key to seal secrets with")
	}
	u, err := url.Parse(e.URL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.Fragment != "" || len(e.URL) > 2000 {
		return e, "", invalid("%q is not an address for a webhook: give an https URL without user or fragment", e.URL)
	}
	for _, c := range e.Categories {
		if _, ok := category(c); !ok {
			return e, "", invalid("there is no category %q", c)
		}
	}
	now := s.now()
	e.ID, e.State, e.Created = ids.New(now), "active", now
	if secret, err = s.newSecret(&e); err != nil {
		return e, "", err
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM notify_endpoint WHERE account = $1`, e.Account).Scan(&n); err != nil {
			return err
		}
		if n >= maxEndpoints {
			return invalid("an account has %d endpoints at most: remove one", maxEndpoints)
		}
		_, err := tx.Exec(ctx, `INSERT INTO notify_endpoint (id, account, url, categories, secret, previous, previous_ms, state, reason, created_ms) VALUES ($1, $2, $3, $4, $5, '', 0, 'active', '', $6)`,
			e.ID, e.Account, e.URL, sqldb.JSON(e.Categories), e.secret, sqldb.Ms(now))
		return err
	})
	return e, secret, err
}

// newSecret gives e a fresh secret: "whsec_" and base64 of 32 bytes.
func (s *Service) newSecret(e *Endpoint) (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	secret := "whsec_" + base64.StdEncoding.EncodeToString(b[:])
	sealed, err := s.o.Seal.Seal("notify_endpoint/"+e.ID, secret)
	e.secret = sealed
	return secret, err
}

// RotateSecret gives an endpoint a new secret; the old one signs beside it for
// a day.
func (s *Service) RotateSecret(ctx context.Context, account, id string) (secret string, err error) {
	err = s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		e, err := s.endpoint(ctx, tx, account, id)
		if err != nil {
			return err
		}
		old := e.secret
		if secret, err = s.newSecret(&e); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE notify_endpoint SET secret = $1, previous = $2, previous_ms = $3 WHERE id = $4`, e.secret, old, sqldb.Ms(s.now().Add(rotation)), id)
		return err
	})
	return secret, err
}

// EnableEndpoint lets a disabled endpoint get messages again.
func (s *Service) EnableEndpoint(ctx context.Context, account, id string) error {
	return s.changeEndpoint(ctx, account, id, `UPDATE notify_endpoint SET state = 'active', reason = '' WHERE account = $1 AND id = $2`)
}

// RemoveEndpoint removes an endpoint. What is pending for it is not sent.
func (s *Service) RemoveEndpoint(ctx context.Context, account, id string) error {
	return s.changeEndpoint(ctx, account, id, `DELETE FROM notify_endpoint WHERE account = $1 AND id = $2`)
}

func (s *Service) changeEndpoint(ctx context.Context, account, id, statement string) error {
	res, err := s.db.Exec(ctx, statement, account, id)
	if err != nil {
		return err
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return fmt.Errorf("%w: endpoint %s", ErrNotFound, id)
	}
	return nil
}

// Endpoints returns the endpoints of an account.
func (s *Service) Endpoints(ctx context.Context, account string) ([]Endpoint, error) {
	return s.endpoints(ctx, s.db, account)
}

func (s *Service) endpoint(ctx context.Context, q querier, account, id string) (Endpoint, error) {
	all, err := s.endpoints(ctx, q, account)
	if err != nil {
		return Endpoint{}, err
	}
	for _, e := range all {
		if e.ID == id {
			return e, nil
		}
	}
	return Endpoint{}, fmt.Errorf("%w: endpoint %s", ErrNotFound, id)
}

func (s *Service) endpoints(ctx context.Context, q querier, account string) ([]Endpoint, error) {
	rows, err := q.Query(ctx, `SELECT id, account, url, categories, secret, previous, previous_ms, state, reason, created_ms FROM notify_endpoint WHERE account = $1 ORDER BY id`, account)
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	defer rows.Close()
	var all []Endpoint
	for rows.Next() {
		var e Endpoint
		var until, created int64
		if err := rows.Scan(&e.ID, &e.Account, &e.URL, sqldb.JSON(&e.Categories), &e.secret, &e.previous, &until, &e.State, &e.Reason, &created); err != nil {
			return nil, fmt.Errorf("read endpoints: %w", err)
		}
		e.previousUntil, e.Created = sqldb.Time(until), sqldb.Time(created)
		all = append(all, e)
	}
	return all, rows.Err()
}

// secrets returns the secrets that sign for e now, newest first.
func (s *Service) secrets(e Endpoint) ([]string, error) {
	secret, err := s.o.Seal.Open("notify_endpoint/"+e.ID, e.secret)
	if err != nil {
		return nil, err
	}
	all := []string{secret}
	if e.previous != "" && s.now().Before(e.previousUntil) {
		old, err := s.o.Seal.Open("notify_endpoint/"+e.ID, e.previous)
		if err != nil {
			return nil, err
		}
		all = append(all, old)
	}
	return all, nil
}
