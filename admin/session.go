package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// Session is a browser that is signed in.
type Session struct {
	ID        string
	User      string
	Created   time.Time
	Seen      time.Time // to the minute
	Confirmed time.Time // when the password was last entered
	Address   string
	Agent     string
}

// SignInInput is what somebody types to sign in, and from where.
type SignInInput struct {
	Name, Password string
	Code           string // one-time code; empty where none is asked for
	Address, Agent string
}

// nobody is the hash that is compared for names that do not exist, so that they
// take as long as those that do.
var nobody = sync.OnceValue(func() string { return hashPassword("nobody has this password") })

// SignIn opens a session and returns the secret of its cookie. A wrong name, a
// wrong password, a wrong code and a disabled user are one error, ErrSignIn.
// Tries are counted before anything is compared, so that a burst of them in
// parallel gains nothing; too many are ErrTooManyTries, also for the right
// password.
func (s *Server) SignIn(ctx context.Context, in SignInInput) (Session, string, error) {
	in.Name = normalName(in.Name)
	if err := s.countTry(ctx, in.Name, in.Address); err != nil {
		return Session{}, "", err
	}
	u, err := s.UserByName(ctx, in.Name)
	known := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Session{}, "", err
	}
	hash := nobody()
	if known {
		hash = u.password
	}
	right := len(in.Password) <= 4*maxPassword && checkPassword(hash, in.Password)
	var step int64
	if known && u.TOTP {
		secret, err := s.box.Open("totp/"+u.ID, u.totp)
		if err != nil {
			return Session{}, "", err
		}
		var ok bool
		step, ok = matchTOTP(secret, strings.ReplaceAll(in.Code, " ", ""), s.now(), u.step)
		right = right && ok
	}
	if !known || !right || u.Disabled {
		s.audit(ctx, Actor{User: u.ID, Account: u.Account}, "sign_in.refused", slog.String("address", in.Address))
		return Session{}, "", ErrSignIn
	}
	now := s.now().UTC().Truncate(time.Millisecond)
	secret := randomText()
	out := Session{ID: ids.New(now), User: u.ID, Created: now, Seen: now, Confirmed: now, Address: in.Address, Agent: clip(in.Agent, 200)}
	err = s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error {
		if u.TOTP {
			// Of two sign-ins with one code, one finds it used.
			err := deleted(tx.Exec(ctx, "UPDATE admin_users SET totp_step = $2 WHERE id = $1 AND totp_step < $2", u.ID, step))
			if errors.Is(err, ErrNotFound) {
				return ErrSignIn
			}
			if err != nil {
				return err
			}
		}
		if err := s.forgetTries(ctx, tx, in.Name, in.Address); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM admin_sessions WHERE seen < $1 OR created < $2", sqldb.Ms(now.Add(-s.cfg.SessionIdle)), sqldb.Ms(now.Add(-s.cfg.SessionMax))); err != nil {
			return fmt.Errorf("admin: forget ended sessions: %w", err)
		}
		_, err := tx.Exec(ctx, "INSERT INTO admin_sessions (id, hash, usr, created, seen, confirmed, address, agent) VALUES ($1, $2, $3, $4, $4, $4, $5, $6)",
			out.ID, s.tokenHash(secret), u.ID, sqldb.Ms(now), out.Address, out.Agent)
		return err
	})
	if err != nil {
		return Session{}, "", err
	}
	s.audit(ctx, Actor{User: u.ID, Account: u.Account}, "sign_in", slog.String("address", in.Address))
	return out, secret, nil
}

func clip(text string, n int) string {
	if len(text) > n {
		text = text[:n]
	}
	return strings.ToValidUTF8(text, "")
}

const sessionColumns = "id, usr, created, seen, confirmed, address, agent"

func scanSession(r scanner) (v Session, err error) {
	err = r.Scan(&v.ID, &v.User, sqldb.Instant{Dst: &v.Created}, sqldb.Instant{Dst: &v.Seen}, sqldb.Instant{Dst: &v.Confirmed}, &v.Address, &v.Agent)
	return v, err
}

// Resume returns who a cookie belongs to. touch says that a person did
// something: what a page asks for by itself must not keep a session alive.
func (s *Server) Resume(ctx context.Context, secret string, touch bool) (Actor, User, Session, error) {
	fail := func(err error) (Actor, User, Session, error) { return Actor{}, User{}, Session{}, err }
	if secret == "" || len(secret) > 256 {
		return fail(ErrUnauthenticated)
	}
	v, err := one(ctx, s.db, scanSession, "SELECT "+sessionColumns+" FROM admin_sessions WHERE hash = $1", s.tokenHash(secret))
	if errors.Is(err, ErrNotFound) {
		return fail(ErrUnauthenticated)
	}
	if err != nil {
		return fail(fmt.Errorf("admin: look for the session: %w", err))
	}
	now := s.now()
	if now.Sub(v.Seen) >= s.cfg.SessionIdle || now.Sub(v.Created) >= s.cfg.SessionMax {
		return fail(ErrUnauthenticated)
	}
	u, err := s.User(ctx, v.User)
	if errors.Is(err, ErrNotFound) || err == nil && u.Disabled {
		return fail(ErrUnauthenticated)
	}
	if err != nil {
		return fail(err)
	}
	a := Actor{Role: RoleOperator, Account: u.Account, Token: "user:" + u.ID, User: u.ID, Confirmed: v.Confirmed}
	if u.Account != "" {
		account, err := s.Account(ctx, u.Account)
		if err != nil {
			return fail(err)
		}
		a.Role = account.Kind
	}
	if !u.Owner {
		a.sub, a.policies = true, u.Policies
	}
	if touch && now.Sub(v.Seen) >= time.Minute {
		if _, err := s.db.Exec(ctx, "UPDATE admin_sessions SET seen = $2 WHERE id = $1", v.ID, sqldb.Ms(now)); err != nil {
			return fail(fmt.Errorf("admin: keep the session alive: %w", err))
		}
	}
	return a, u, v, nil
}

// Sessions lists the sessions of a user that are not over.
func (s *Server) Sessions(ctx context.Context, user string) ([]Session, error) {
	return all(ctx, s.db, scanSession, "SELECT "+sessionColumns+" FROM admin_sessions WHERE usr = $1 AND seen > $2 AND created > $3 ORDER BY id DESC LIMIT 100",
		user, sqldb.Ms(s.now().Add(-s.cfg.SessionIdle)), sqldb.Ms(s.now().Add(-s.cfg.SessionMax)))
}

// EndSession signs a browser of the user out.
func (s *Server) EndSession(ctx context.Context, user, id string) error {
	return deleted(s.db.Exec(ctx, "DELETE FROM admin_sessions WHERE id = $1 AND usr = $2", id, user))
}

// Confirm checks the password of a session's user again, which opens what asks
// for it for Config.ConfirmFor.
func (s *Server) Confirm(ctx context.Context, session, user, password, address string) error {
	u, err := s.recheck(ctx, user, password, address)
	if err != nil {
		return err
	}
	return deleted(s.db.Exec(ctx, "UPDATE admin_sessions SET confirmed = $3 WHERE id = $1 AND usr = $2", session, u.ID, sqldb.Ms(s.now())))
}

// recheck compares the password of a user who is signed in; tries are counted
// as those of signing in.
func (s *Server) recheck(ctx context.Context, user, password, address string) (User, error) {
	u, err := s.User(ctx, user)
	if err != nil {
		return u, err
	}
	if err := s.countTry(ctx, u.Name, address); err != nil {
		return u, err
	}
	if len(password) > 4*maxPassword || !checkPassword(u.password, password) {
		return u, ErrSignIn
	}
	return u, s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error { return s.forgetTries(ctx, tx, u.Name, address) })
}

// ChangePassword gives a user a new password and ends the user's other
// sessions.
func (s *Server) ChangePassword(ctx context.Context, session, user, old, password, address string) error {
	u, err := s.recheck(ctx, user, old, address)
	if err != nil {
		return err
	}
	var f faults
	checkNewPassword(&f, "body.password", password, u.Name)
	if err := f.err(); err != nil {
		return err
	}
	hash := hashPassword(password)
	s.audit(ctx, Actor{User: u.ID, Account: u.Account}, "password.change")
	return s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE admin_users SET password = $2 WHERE id = $1", u.ID, hash); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM admin_sessions WHERE usr = $1 AND id <> $2", u.ID, session)
		return err
	})
}

// OfferTOTP returns a fresh secret for one-time codes and the address an
// authenticator app reads. Nothing is kept until EnableTOTP proves that the
// user's device has it.
func (s *Server) OfferTOTP(u User) (secret, uri string) {
	secret = newTOTPSecret()
	return secret, totpURI(u.Name, secret)
}

// EnableTOTP asks for one-time codes of the secret from now on.
func (s *Server) EnableTOTP(ctx context.Context, user, secret, code string) error {
	step, ok := matchTOTP(secret, strings.ReplaceAll(code, " ", ""), s.now(), 0)
	if key, err := b32.DecodeString(secret); !ok || err != nil || len(key) < 16 {
		return ErrSignIn
	}
	s.audit(ctx, Actor{User: user}, "totp.enable")
	return deleted(s.db.Exec(ctx, "UPDATE admin_users SET totp = $2, totp_step = $3 WHERE id = $1", user, s.box.Seal("totp/"+user, secret), step))
}

// DisableTOTP asks for no one-time code any more.
func (s *Server) DisableTOTP(ctx context.Context, user string) error {
	s.audit(ctx, Actor{User: user}, "totp.disable")
	return deleted(s.db.Exec(ctx, "UPDATE admin_users SET totp = '' WHERE id = $1", user))
}
