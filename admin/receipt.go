package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/receipt"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// ReceiptKey signs the receipts of an account.
type ReceiptKey struct {
	ID      string     `json:"id" doc:"A receipt names it as key=."`
	Account string     `json:"account_id"`
	Header  bool       `json:"header" doc:"Plain answers carry their receipt in X-Tollgate-Receipt."`
	Created time.Time  `json:"created"`
	Retired *time.Time `json:"retired,omitempty" doc:"When a later key took its place; the current one has none."`
}

// NewReceiptKey is a key with its text.
type NewReceiptKey struct {
	ReceiptKey
	Secret string `json:"secret" doc:"The key's text: its bytes are the key of HMAC-SHA256. Keep it as you would a password."`
}

const receiptKeyPrefix = "tgr_"

// maxReceiptKeys bounds the keys an account keeps, current and earlier.
const maxReceiptKeys = 100

func receiptKeyPlace(id string) string { return "receipt_key/" + id }

const receiptKeyColumns = "id, account, header, created, retired"

func scanReceiptKey(r scanner) (k ReceiptKey, err error) {
	var retired time.Time
	err = r.Scan(&k.ID, &k.Account, &k.Header, sqldb.Instant{Dst: &k.Created}, sqldb.Instant{Dst: &retired})
	if !retired.IsZero() && retired.UnixMilli() != 0 {
		k.Retired = &retired
	}
	return k, err
}

// CreateReceiptKey makes the account's current key; the one before, if there
// is one, is kept to check what it signed. Gateways sign with the new one
// within 5 s.
func (s *Server) CreateReceiptKey(ctx context.Context, account string, header bool) (NewReceiptKey, error) {
	return s.createReceiptKey(ctx, onceKey{}, account, header)
}

func (s *Server) createReceiptKey(ctx context.Context, k onceKey, account string, header bool) (NewReceiptKey, error) {
	input := struct {
		Account string
		Header  bool
	}{account, header}
	return once(ctx, s, visible, k, input, func(ctx context.Context, tx *sqldb.Tx) (NewReceiptKey, error) {
		if err := s.buyerExists(ctx, tx, account); err != nil {
			return NewReceiptKey{}, err
		}
		var n int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_receipt_keys WHERE account = $1", account).Scan(&n); err != nil {
			return NewReceiptKey{}, fmt.Errorf("admin: count the receipt keys: %w", err)
		}
		if n >= maxReceiptKeys {
			return NewReceiptKey{}, ErrReceiptKeyLimit
		}
		now := s.now().UTC().Truncate(time.Millisecond)
		key := NewReceiptKey{ReceiptKey: ReceiptKey{ID: ids.New(now), Account: account, Header: header, Created: now}, Secret: receiptKeyPrefix + randomText()}
		if _, err := tx.Exec(ctx, "UPDATE admin_receipt_keys SET retired = $2 WHERE account = $1 AND retired = 0", account, sqldb.Ms(now)); err != nil {
			return NewReceiptKey{}, fmt.Errorf("admin: retire the receipt key: %w", err)
		}
		_, err := tx.Exec(ctx, "INSERT INTO admin_receipt_keys (id, account, secret, header, created, retired) VALUES ($1, $2, $3, $4, $5, 0)",
			key.ID, account, s.box.Seal(receiptKeyPlace(key.ID), key.Secret), header, sqldb.Ms(now))
		if err != nil {
			return NewReceiptKey{}, fmt.Errorf("admin: keep the receipt key: %w", err)
		}
		return key, nil
	})
}

// ReceiptKeys lists the keys of an account, the newest first.
func (s *Server) ReceiptKeys(ctx context.Context, account string) ([]ReceiptKey, error) {
	return all(ctx, s.db, scanReceiptKey, "SELECT "+receiptKeyColumns+" FROM admin_receipt_keys WHERE account = $1 ORDER BY id DESC", account)
}

// receiptKey returns the key of the account with the id, or the current one,
// and its text.
func (s *Server) receiptKey(ctx context.Context, account, id string) (NewReceiptKey, error) {
	type row struct {
		key    ReceiptKey
		sealed string
	}
	r, err := one(ctx, s.db, func(r scanner) (o row, err error) {
		o.key, err = scanReceiptKey(also{r, &o.sealed})
		return o, err
	}, "SELECT "+receiptKeyColumns+", secret FROM admin_receipt_keys WHERE account = $1 AND (id = $2 OR ($2 = '' AND retired = 0))", account, id)
	if err != nil {
		return NewReceiptKey{}, err
	}
	text, err := s.box.Open(receiptKeyPlace(r.key.ID), r.sealed)
	return NewReceiptKey{r.key, text}, err
}

// also scans one more column after those of a scan function.
type also struct {
	scanner
	last any
}

func (a also) Scan(dst ...any) error { return a.scanner.Scan(append(dst, a.last)...) }

// RevealReceiptKey returns a key with its text and says so in the audit log.
func (s *Server) RevealReceiptKey(ctx context.Context, actor Actor, account, id string) (NewReceiptKey, error) {
	k, err := s.receiptKey(ctx, account, id)
	if err == nil {
		s.audit(ctx, actor, "receipt_key.reveal", slog.String("id", k.ID), slog.String("of_account", account))
	}
	return k, err
}

// SetReceiptHeader says whether plain answers carry receipts by the key.
func (s *Server) SetReceiptHeader(ctx context.Context, account, id string, header bool) (k ReceiptKey, err error) {
	err = s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		if _, err = tx.Exec(ctx, "UPDATE admin_receipt_keys SET header = $3 WHERE account = $1 AND id = $2", account, id, header); err != nil {
			return fmt.Errorf("admin: change the receipt key: %w", err)
		}
		k, err = one(ctx, tx, scanReceiptKey, "SELECT "+receiptKeyColumns+" FROM admin_receipt_keys WHERE account = $1 AND id = $2", account, id)
		return err
	})
	return k, err
}

// DeleteReceiptKey forgets a key: nothing is signed, and nothing can be checked
// here, with it any more.
func (s *Server) DeleteReceiptKey(ctx context.Context, account, id string) error {
	return s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM admin_receipt_keys WHERE account = $1 AND id = $2", account, id); err != nil {
			return fmt.Errorf("admin: delete the receipt key: %w", err)
		}
		return nil
	})
}

// Receipt signs the receipt of a call with the account's key of that id, or its
// current one.
func (s *Server) Receipt(ctx context.Context, rec *usage.Record, keyID string) (string, error) {
	if rec.Has(usage.Provisional) {
		return "", ErrCallRuns
	}
	k, err := s.receiptKey(ctx, rec.Account, keyID)
	if errors.Is(err, ErrNotFound) && keyID == "" {
		return "", ErrNoReceiptKey
	}
	if err != nil {
		return "", err
	}
	return string(receipt.NewKey(k.ID, k.Secret).Append(nil, rec)), nil
}

// snapReceiptKeys puts the keys of accounts that want receipts in headers into
// the snapshot.
func (s *Server) snapReceiptKeys(ctx context.Context, snap *directory.Snapshot) (err error) {
	snap.ReceiptKeys, err = all(ctx, s.db, func(r scanner) (k directory.ReceiptKey, err error) {
		var sealed string
		if err := r.Scan(&k.ID, &k.Account, &sealed); err != nil {
			return k, err
		}
		text, err := s.box.Open(receiptKeyPlace(k.ID), sealed)
		k.Secret = directory.Secret(text)
		return k, err
	}, "SELECT id, account, secret FROM admin_receipt_keys WHERE retired = 0 AND header ORDER BY id")
	return err
}
