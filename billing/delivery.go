package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tollgate/internal/sqldb"
)

// Limits of delivery.
const (
	deliverBatch    = 200
	deliverFirst    = 200 * time.Millisecond // wait after the first failure, doubling
	deliverMost     = 5 * time.Second        // PKG-27: a store that is back gets its lots in that time
	regrantPage     = 500
	maxErrorText    = 500
	ackTimeout      = 30 * time.Second
	inlineDeliverMs = 2000 // how long a purchase waits for the quota store
)

// enqueue notes that a lot's newest version has to be delivered.
func enqueue(ctx context.Context, tx *sqldb.Tx, l *Lot) error {
	_, err := tx.Exec(ctx, `INSERT INTO billing_delivery (lot, version, attempts, due_ms, last_error, created_ms) VALUES ($1, $2, 0, $3, '', $3)
		ON CONFLICT (lot) DO UPDATE SET version = excluded.version, attempts = 0, due_ms = excluded.due_ms, last_error = ''`,
		l.ID, l.Version, sqldb.Ms(l.Updated))
	if err != nil {
		return fmt.Errorf("note the delivery of lot %s: %w", l.ID, err)
	}
	return nil
}

// Run delivers what is due until ctx ends, which is not an error. Several
// processes may run it on one database: a lot may then be delivered by two of
// them, which the quota store must allow anyway.
func (s *Service) Run(ctx context.Context) error {
	for {
		n, err := s.DeliverDue(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.log.Error("deliveries to the quota store cannot be read", "error", err)
		}
		if err := s.DeliverThresholds(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("thresholds not delivered to the quota store", "error", err)
		}
		if n == deliverBatch {
			continue // there may be more
		}
		timer := time.NewTimer(s.poll)
		select {
		case <-ctx.Done():
		case <-s.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// wake makes Run look for deliveries now.
func (s *Service) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// DeliverDue tries each delivery that is due once, up to a batch, and returns
// how many it tried. Failures are noted and due again later; they are no error.
func (s *Service) DeliverDue(ctx context.Context) (int, error) {
	due, err := collect(ctx, s.db, func(row scanner) (string, error) {
		var id string
		return id, row.Scan(&id)
	}, fmt.Sprintf(`SELECT lot FROM billing_delivery WHERE due_ms <= $1 ORDER BY due_ms, lot LIMIT %d`, deliverBatch), sqldb.Ms(s.instant()))
	if err != nil {
		return 0, err
	}
	s.deliver(ctx, due)
	return len(due), nil
}

// deliverLots delivers right after the commit that made the lots. It does not
// keep the caller waiting for a store that does not answer: the rest is left to
// Run.
func (s *Service) deliverLots(ctx context.Context, lots []string) {
	// The purchase is committed: a caller that leaves must not delay its units.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inlineDeliverMs*time.Millisecond)
	defer cancel()
	s.deliver(ctx, lots)
	s.wake()
}

// delivery is the outcome of one attempt.
type delivery struct {
	lot     string
	order   string
	version int64
	err     error
}

// deliver applies the newest version of each lot and notes the outcomes. A
// crash after ApplyGrant and before the note delivers the same version again.
func (s *Service) deliver(ctx context.Context, lots []string) {
	var outcomes []delivery
	for _, id := range lots {
		l, err := getLot(ctx, s.db, id)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error("lot to be delivered cannot be read", "lot", id, "error", err)
			}
			continue
		}
		if l.Delivered {
			continue
		}
		err = s.apply(ctx, &l)
		if ctx.Err() != nil && err != nil {
			break // our own limit or shutdown: not the store's failure
		}
		outcomes = append(outcomes, delivery{lot: id, order: l.Order, version: l.Version, err: err})
	}
	if len(outcomes) == 0 {
		return
	}
	// Noted even if ctx just ended, so that it is not delivered once more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	if err := s.note(ctx, outcomes); err != nil {
		s.log.Error("outcome of deliveries cannot be noted: they will be repeated", "lots", len(outcomes), "error", err)
	}
}

func (s *Service) apply(ctx context.Context, l *Lot) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.lots.ApplyGrant(ctx, l.Grant)
}

// note records the outcomes of deliveries, and completes the orders whose lots
// have all arrived. Rows are locked in the order lots, deliveries, orders.
func (s *Service) note(ctx context.Context, outcomes []delivery) error {
	slices.SortFunc(outcomes, func(a, b delivery) int { return cmp.Compare(a.lot, b.lot) })
	return s.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		orders := map[string]bool{}
		for _, d := range outcomes {
			if d.err != nil {
				continue
			}
			_, err := tx.Exec(ctx, `UPDATE billing_lot SET delivered_version = $2 WHERE id = $1 AND delivered_version < $2`, d.lot, d.version)
			if err != nil {
				return err
			}
			orders[d.order] = true
		}
		for _, d := range outcomes {
			if err := s.noteDelivery(ctx, tx, d, now); err != nil {
				return err
			}
		}
		for _, order := range slices.Sorted(maps.Keys(orders)) {
			if err := complete(ctx, tx, order, now); err != nil {
				return err
			}
		}
		return nil
	})
}

// noteDelivery removes a delivery that succeeded, and puts one that failed off.
// A version that was superseded meanwhile stays as it is.
func (s *Service) noteDelivery(ctx context.Context, tx *sqldb.Tx, d delivery, now time.Time) error {
	if d.err == nil {
		_, err := tx.Exec(ctx, `DELETE FROM billing_delivery WHERE lot = $1 AND version <= $2`, d.lot, d.version)
		return err
	}
	text := d.err.Error()
	text = text[:min(len(text), maxErrorText)]
	rows, err := collect(ctx, tx, func(row scanner) (int64, error) {
		var attempts int64
		return attempts, row.Scan(&attempts)
	}, `UPDATE billing_delivery SET attempts = attempts + 1, last_error = $3 WHERE lot = $1 AND version = $2 RETURNING attempts`, d.lot, d.version, text)
	if err != nil || len(rows) == 0 {
		return err
	}
	wait := min(deliverFirst<<min(rows[0]-1, 10), deliverMost)
	s.log.Warn("lot not delivered to the quota store", "lot", d.lot, "attempts", rows[0], "again_in", wait, "error", d.err)
	_, err = tx.Exec(ctx, `UPDATE billing_delivery SET due_ms = $3 WHERE lot = $1 AND version = $2`, d.lot, d.version, sqldb.Ms(now.Add(wait)))
	return err
}

// complete moves an order from processing to completed if the quota store has
// every one of its lots. The order's row is locked first, so that of two that
// deliver its last lots the later one sees both.
func complete(ctx context.Context, tx *sqldb.Tx, order string, now time.Time) error {
	if _, err := tx.Exec(ctx, `UPDATE billing_order SET state = state WHERE id = $1`, order); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE billing_order SET state = 'completed', completed_ms = $2 WHERE id = $1 AND state = 'processing'
		AND NOT EXISTS (SELECT 1 FROM billing_lot WHERE order_id = $1 AND delivered_version = 0)`, order, sqldb.Ms(now))
	return err
}

// Regrant hands every lot of every subscription to restore, one subscription
// at a time in the order of their ids, for a quota store that was emptied or
// put back to an earlier state, and returns how many lots there were. Lots that
// expired and void ones are among them: what was used of them is part of the
// books, and without its lot the quota store would not show it. A lot is
// committed before it is first applied, so whatever a store had before Regrant
// began is handed over. It is safe at any time.
func (s *Service) Regrant(ctx context.Context, restore func(ctx context.Context, subscription string, lots []Lot) error) (int, error) {
	done := 0
	var batch []Lot
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := restore(ctx, batch[0].Subscription, batch); err != nil {
			return fmt.Errorf("regrant: subscription %s: %w", batch[0].Subscription, err)
		}
		done += len(batch)
		batch = nil
		return nil
	}
	for subscription, after := "", ""; ; {
		page, err := collect(ctx, s.db, scanLot, fmt.Sprintf("%s WHERE subscription > $1 OR subscription = $1 AND id > $2 ORDER BY subscription, id LIMIT %d", lotColumns, regrantPage),
			subscription, after)
		if err != nil {
			return done, fmt.Errorf("regrant: %w", err)
		}
		for i := range page {
			if len(batch) > 0 && batch[0].Subscription != page[i].Subscription {
				if err := flush(); err != nil {
					return done, err
				}
			}
			batch = append(batch, page[i])
		}
		if len(page) < regrantPage {
			return done, flush()
		}
		subscription, after = page[len(page)-1].Subscription, page[len(page)-1].ID
	}
}

// Backlog is what the quota store does not have yet.
type Backlog struct {
	Lots      int64
	Oldest    time.Time // when the oldest was noted; zero if there is none
	Attempts  int64     // the most failed attempts of one
	LastError string    // of the one with the most failed attempts
}

// Backlog tells how much is left to deliver, for metrics and the operator's
// list of stuck orders.
func (s *Service) Backlog(ctx context.Context) (Backlog, error) {
	var b Backlog
	err := s.db.QueryRow(ctx, `SELECT COUNT(*), COALESCE(MIN(created_ms), 0), COALESCE(MAX(attempts), 0) FROM billing_delivery`).
		Scan(&b.Lots, sqldb.Instant{Dst: &b.Oldest}, &b.Attempts)
	if err == nil && b.Attempts > 0 {
		var texts []string
		texts, err = collect(ctx, s.db, func(row scanner) (string, error) {
			var text string
			return text, row.Scan(&text)
		}, `SELECT last_error FROM billing_delivery ORDER BY attempts DESC, lot LIMIT 1`)
		if len(texts) > 0 {
			b.LastError = texts[0]
		}
	}
	if err != nil {
		return Backlog{}, errors.Join(errors.New("backlog of deliveries"), err)
	}
	return b, nil
}
