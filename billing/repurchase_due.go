package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/sqldb"
)

// RunRepurchases buys what is due until ctx ends, which is no error. Several
// processes may run it on one database: a purchase is decided under the lock of
// its configuration, so one of them makes it.
func (s *Service) RunRepurchases(ctx context.Context) error {
	for {
		if _, err := s.RepurchaseDue(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("due repurchases cannot be read", "error", err)
		}
		t := time.NewTimer(s.poll)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-s.buyer:
		case <-t.C:
		}
		t.Stop()
	}
}

// wakeBuyer makes RunRepurchases look for what is due now.
func (s *Service) wakeBuyer() {
	select {
	case s.buyer <- struct{}{}:
	default:
	}
}

// RepurchaseDue tries each repurchase that is due once, up to a batch, and
// returns how many it tried. Due is one whose time has come, and one that
// failed for a reason that is gone: the balance, the agency or the subscription
// is back (REPO-33).
func (s *Service) RepurchaseDue(ctx context.Context) (int, error) {
	due, err := collect(ctx, s.db, func(row scanner) (string, error) {
		var id string
		return id, row.Scan(&id)
	}, fmt.Sprintf(`SELECT r.id FROM billing_repurchase r WHERE r.pending <> '' AND (r.due_ms > 0 AND r.due_ms <= $1
		OR r.failure = '%s' AND EXISTS (SELECT 1 FROM billing_ledger_account a WHERE a.id = 'buyer/' || r.account || '/balance' AND a.balance >= r.needed)
		OR r.failure = '%s' AND EXISTS (SELECT 1 FROM billing_agency g WHERE g.grantor = r.account AND g.name IN ('%s', '%s') AND g.policy = '%s' AND g.version = $2 AND g.deleted_ms = 0)
		OR r.failure = '%s' AND EXISTS (SELECT 1 FROM billing_subscription s WHERE s.id = r.subscription AND s.state = 'active'))
		ORDER BY r.due_ms, r.id LIMIT %d`, FailBalance, FailAgency, AgencyName, agencyNameBefore, RepurchasePolicy, FailFrozen, repurchaseBatch),
		sqldb.Ms(s.instant()), policyVersion())
	if err != nil {
		return 0, err
	}
	for _, id := range due {
		if err := s.repurchase(ctx, id); err != nil {
			if ctx.Err() != nil {
				return 0, nil
			}
			s.log.Warn("a repurchase is tried again: the error is ours and counts for nothing", "repurchase", id, "error", err)
			s.postpone(ctx, id)
		}
	}
	return len(due), nil
}

// repurchase tries one. An error is one of ours: the quota store or the database
// is away.
func (s *Service) repurchase(ctx context.Context, id string) error {
	r, err := scanRepurchase(s.db.QueryRow(ctx, repurchaseColumns+" WHERE id = $1", id))
	if err != nil || r.Pending == "" {
		return err
	}
	now := s.instant()
	// What was bought must be in the quota store before it is asked: units that
	// are under way would be bought again (REPO-23).
	if r.LastOrder != "" {
		o, err := getOrder(ctx, s.db, r.LastOrder)
		if err != nil {
			return err
		}
		if o.State == OrderProcessing {
			return s.putOff(ctx, &r, now.Add(repurchaseAgain))
		}
	}
	if s.quota == nil {
		return errors.New("billing: Options.Quota is not set")
	}
	b, err := s.quota.Read(ctx, r.Subscription)
	if err != nil {
		return fmt.Errorf("what is left of subscription %s: %w", r.Subscription, err)
	}
	product, published := "", true
	if s.products != nil {
		if product, published, err = s.products.Product(ctx, r.Product); err != nil {
			return fmt.Errorf("product %s: %w", r.Product, err)
		}
	}
	var fresh []string
	err = s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		fresh = nil
		t := &repurchasing{Service: s, tx: tx, now: now, balance: &b, product: product, published: published}
		if _, err := tx.Exec(ctx, `UPDATE billing_repurchase SET version = version WHERE id = $1`, id); err != nil {
			return err
		}
		if t.r, err = scanRepurchase(tx.QueryRow(ctx, repurchaseColumns+" WHERE id = $1", id)); err != nil {
			return err
		}
		if t.r.version != r.version {
			return nil // decided by somebody else meanwhile
		}
		fresh, err = t.run(ctx)
		return err
	})
	if errors.Is(err, ErrTooManyLots) { // the whole purchase was taken back: keep why
		err = s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
			t := &repurchasing{Service: s, tx: tx, now: now, product: product}
			if _, err := tx.Exec(ctx, `UPDATE billing_repurchase SET version = version WHERE id = $1`, id); err != nil {
				return err
			}
			if t.r, err = scanRepurchase(tx.QueryRow(ctx, repurchaseColumns+" WHERE id = $1", id)); err != nil || t.r.version != r.version {
				return err
			}
			return t.refuse(ctx, FailRestricted, 0)
		})
		return err
	}
	if err == nil && len(fresh) > 0 {
		s.deliverLots(ctx, fresh)
	}
	return err
}

// putOff sets when r is due next, unless it changed meanwhile.
func (s *Service) putOff(ctx context.Context, r *Repurchase, until time.Time) error {
	_, err := s.db.Exec(ctx, `UPDATE billing_repurchase SET due_ms = $3 WHERE id = $1 AND version = $2 AND pending <> ''`, r.ID, r.version, sqldb.Ms(until))
	return err
}

// postpone puts a repurchase off after an error of ours, which is not the
// buyer's: no try is counted. One that lasts is told.
func (s *Service) postpone(ctx context.Context, id string) {
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE billing_repurchase SET version = version WHERE id = $1`, id); err != nil {
			return err
		}
		r, err := scanRepurchase(tx.QueryRow(ctx, repurchaseColumns+" WHERE id = $1", id))
		if err != nil || r.Pending == "" {
			return err
		}
		now := s.instant()
		t := &repurchasing{Service: s, tx: tx, r: r, now: now}
		next := now.Add(min(max(repurchaseOutage, now.Sub(r.pendingAt)/4), repurchaseOutMost))
		if now.Sub(r.pendingAt) >= internalAfter && s.notices != nil {
			return t.fail(ctx, FailInternal, r.State, next, 0)
		}
		return t.save(ctx, r.State, FailInternal, next)
	})
	if err != nil && ctx.Err() == nil {
		s.log.Error("a repurchase cannot be put off: it is tried again at once", "repurchase", id, "error", err)
	}
}
