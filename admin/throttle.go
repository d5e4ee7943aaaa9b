package admin

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"tollgate/internal/sqldb"
)

// tryKeys are what tries to sign in are counted by, each with its bound: a name
// from one address, so that a stranger elsewhere does not lock its owner out; a
// name from everywhere, against guessing from many addresses; an address,
// against one that tries many names. Names that do not exist count the same.
func (s *Server) tryKeys(name, address string) map[string]int64 {
	n := s.cfg.SignInTries
	return map[string]int64{
		s.tokenHash("sign-in/both/" + address + "/" + name): n,
		s.tokenHash("sign-in/name/" + name):                 6 * n,
		s.tokenHash("sign-in/from/" + address):              20 * n,
	}
}

// countTry counts a try, or returns ErrTooManyTries. Counts end
// Config.SignInWindow after their first try, which is also how long a lock
// lasts; what is kept is bounded by what one address may try in that time.
func (s *Server) countTry(ctx context.Context, name, address string) error {
	// A client that leaves must not get its tries for nothing.
	ctx = context.WithoutCancel(ctx)
	return s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.now()
		if _, err := tx.Exec(ctx, "DELETE FROM admin_sign_ins WHERE since <= $1", sqldb.Ms(now.Add(-s.cfg.SignInWindow))); err != nil {
			return fmt.Errorf("admin: forget old tries: %w", err)
		}
		keys := s.tryKeys(name, address)
		for key, most := range keys {
			var tries int64
			err := tx.QueryRow(ctx, "SELECT tries FROM admin_sign_ins WHERE key = $1", key).Scan(&tries)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("admin: read the tries: %w", err)
			}
			if tries >= most {
				return ErrTooManyTries
			}
		}
		for key := range keys {
			if _, err := tx.Exec(ctx, "INSERT INTO admin_sign_ins (key, tries, since) VALUES ($1, 1, $2) ON CONFLICT (key) DO UPDATE SET tries = admin_sign_ins.tries + 1", key, sqldb.Ms(now)); err != nil {
				return fmt.Errorf("admin: count a try: %w", err)
			}
		}
		return nil
	})
}

// forgetTries takes back what a try that succeeded was counted as.
func (s *Server) forgetTries(ctx context.Context, tx *sqldb.Tx, name, address string) error {
	for key := range s.tryKeys(name, address) {
		if _, err := tx.Exec(ctx, "UPDATE admin_sign_ins SET tries = tries - 1 WHERE key = $1 AND tries > 0", key); err != nil {
			return fmt.Errorf("admin: take back a try: %w", err)
		}
	}
	_, err := tx.Exec(ctx, "DELETE FROM admin_sign_ins WHERE key = $1", s.tokenHash("sign-in/both/"+address+"/"+name))
	return err
}
