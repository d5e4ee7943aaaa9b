package admin

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// User is somebody who signs in: an operator, or an owner or sub-user of an
// account (IAM-1).
type User struct {
	ID       string      `json:"id"`
	Account  string      `json:"account_id,omitempty" doc:"Absent for an operator."`
	Name     string      `json:"name" doc:"What is typed to sign in."`
	Owner    bool        `json:"owner" doc:"May do all that the account may; a sub-user only what its policies leave it."`
	Policies []Statement `json:"policies" doc:"Of a sub-user. An explicit deny wins, then an explicit allow; without either it may buy and see orders, packages and what is left (IAM-2, IAM-7)."`
	TOTP     bool        `json:"totp" doc:"Whether a one-time code is asked for."`
	Disabled bool        `json:"disabled"`
	Created  time.Time   `json:"created"`

	password, totp string
	step           int64
}

// UserInput is what a user is made of.
type UserInput struct {
	Account  string      `json:"account_id,omitempty" maxLength:"64" doc:"For operators: the account; left out, the user is an operator. Others make users of their own account."`
	Name     string      `json:"name" minLength:"2" maxLength:"64" doc:"2 to 64 letters, digits and .-_@+, unique; case does not matter."`
	Password string      `json:"password" minLength:"10" maxLength:"128"`
	Owner    bool        `json:"owner,omitempty"`
	Policies []Statement `json:"policies,omitempty" maxItems:"32"`
}

// UserPatch changes what is not nil.
type UserPatch struct {
	Password  *string      `json:"password,omitempty" minLength:"10" maxLength:"128" doc:"Ends the user's sessions."`
	Policies  *[]Statement `json:"policies,omitempty" maxItems:"32"`
	Disabled  *bool        `json:"disabled,omitempty" doc:"Ends the user's sessions."`
	ResetTOTP bool         `json:"reset_totp,omitempty" doc:"Asks for no one-time code any more, for somebody who lost the device."`
}

var userName = regexp.MustCompile(`^[a-z0-9][a-z0-9._@+-]{1,63}$`)

func normalName(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

const userColumns = "id, account, name, owner, password, policies, totp, totp_step, disabled, created"

func scanUser(r scanner) (u User, err error) {
	err = r.Scan(&u.ID, &u.Account, &u.Name, &u.Owner, &u.password, sqldb.JSON(&u.Policies), &u.totp, &u.step, &u.Disabled, sqldb.Instant{Dst: &u.Created})
	u.TOTP = u.totp != ""
	u.Policies = orEmpty(u.Policies)
	return u, err
}

// CreateUser makes a user.
func (s *Server) CreateUser(ctx context.Context, in UserInput) (User, error) {
	return s.createUser(ctx, onceKey{}, in)
}

func (s *Server) createUser(ctx context.Context, k onceKey, in UserInput) (User, error) {
	in.Name = normalName(in.Name)
	var f faults
	f.check(userName.MatchString(in.Name), "body.name", "must be 2 to 64 letters, digits and .-_@+, beginning with a letter or digit")
	checkNewPassword(&f, "body.password", in.Password, in.Name)
	s.checkStatements(&f, in.Policies)
	f.check(in.Account != "" || in.Owner, "body.owner", "must be true for an operator, who belongs to no account")
	f.check(!in.Owner || len(in.Policies) == 0, "body.policies", "belong to sub-users: an owner may do everything")
	if err := f.err(); err != nil {
		return User{}, err
	}
	hash := hashPassword(in.Password)
	return once(ctx, s, unseen, k, in, func(ctx context.Context, tx *sqldb.Tx) (User, error) {
		if in.Account != "" {
			if _, err := one(ctx, tx, scanAccount, "SELECT "+accountColumns+" FROM admin_accounts WHERE id = $1", in.Account); err != nil {
				return User{}, err
			}
		}
		return s.insertUser(ctx, tx, in, hash)
	})
}

func (s *Server) insertUser(ctx context.Context, tx *sqldb.Tx, in UserInput, hash string) (User, error) {
	now := s.now().UTC().Truncate(time.Millisecond)
	u := User{ID: ids.New(now), Account: in.Account, Name: in.Name, Owner: in.Owner, Policies: orEmpty(in.Policies), Created: now}
	_, err := tx.Exec(ctx, "INSERT INTO admin_users ("+userColumns+") VALUES ($1, $2, $3, $4, $5, $6, '', 0, FALSE, $7)",
		u.ID, u.Account, u.Name, u.Owner, hash, sqldb.JSON(u.Policies), sqldb.Ms(now))
	if sqldb.IsUnique(err) {
		return User{}, ErrNameTaken
	}
	if err != nil {
		return User{}, fmt.Errorf("admin: keep the user: %w", err)
	}
	return u, nil
}

// User returns the user with the id.
func (s *Server) User(ctx context.Context, id string) (User, error) {
	return one(ctx, s.db, scanUser, "SELECT "+userColumns+" FROM admin_users WHERE id = $1", id)
}

// UserByName returns the user who signs in with the name.
func (s *Server) UserByName(ctx context.Context, name string) (User, error) {
	return one(ctx, s.db, scanUser, "SELECT "+userColumns+" FROM admin_users WHERE name = $1", normalName(name))
}

// Users lists the users of an account, or the operators.
func (s *Server) Users(ctx context.Context, account string, p Page) ([]User, error) {
	return all(ctx, s.db, scanUser, "SELECT "+userColumns+" FROM admin_users WHERE account = $2 AND ($1 = '' OR id < $1) ORDER BY id DESC LIMIT $3", p.Cursor, account, p.limit())
}

// UpdateUser changes a user. The last operator cannot be disabled.
func (s *Server) UpdateUser(ctx context.Context, id string, patch UserPatch) (User, error) {
	var hash string
	u, err := s.User(ctx, id)
	if err != nil {
		return User{}, err
	}
	var f faults
	if patch.Password != nil {
		checkNewPassword(&f, "body.password", *patch.Password, u.Name)
	}
	if patch.Policies != nil {
		s.checkStatements(&f, *patch.Policies)
		f.check(!u.Owner || len(*patch.Policies) == 0, "body.policies", "belong to sub-users: an owner may do everything")
	}
	if err := f.err(); err != nil {
		return User{}, err
	}
	if patch.Password != nil {
		hash = hashPassword(*patch.Password)
	}
	err = s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		if u, err = one(ctx, tx, scanUser, "SELECT "+userColumns+" FROM admin_users WHERE id = $1", id); err != nil {
			return err
		}
		set(&u.Policies, patch.Policies)
		set(&u.Disabled, patch.Disabled)
		if patch.Disabled != nil && *patch.Disabled {
			if err := lastOperator(ctx, tx, &u); err != nil {
				return err
			}
		}
		if hash != "" {
			u.password = hash
		}
		if patch.ResetTOTP {
			u.totp, u.TOTP = "", false
		}
		if _, err = tx.Exec(ctx, "UPDATE admin_users SET policies = $2, disabled = $3, password = $4, totp = $5 WHERE id = $1", id, sqldb.JSON(orEmpty(u.Policies)), u.Disabled, u.password, u.totp); err != nil {
			return fmt.Errorf("admin: change the user: %w", err)
		}
		if hash != "" || u.Disabled {
			_, err = tx.Exec(ctx, "DELETE FROM admin_sessions WHERE usr = $1", id)
		}
		return err
	})
	return u, err
}

// DeleteUser ends a user and the user's sessions. The last operator stays.
func (s *Server) DeleteUser(ctx context.Context, id string) error {
	return s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error {
		u, err := one(ctx, tx, scanUser, "SELECT "+userColumns+" FROM admin_users WHERE id = $1", id)
		if err == nil {
			err = lastOperator(ctx, tx, &u)
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM admin_sessions WHERE usr = $1", id); err != nil {
			return err
		}
		return deleted(tx.Exec(ctx, "DELETE FROM admin_users WHERE id = $1", id))
	})
}

// lastOperator refuses to lose the last user who can run the marketplace.
func lastOperator(ctx context.Context, tx *sqldb.Tx, u *User) error {
	if u.Account != "" {
		return nil
	}
	var n int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_users WHERE account = '' AND disabled = FALSE AND id <> $1", u.ID).Scan(&n); err != nil {
		return fmt.Errorf("admin: count the operators: %w", err)
	}
	if n == 0 {
		return ErrLastOperator
	}
	return nil
}

// setupName is where the hash of the setup token is kept.
const setupName = "setup_token"

// SetupToken returns a token with which the first operator is made in the
// browser, and made true, when there is no operator yet. Each call makes a new
// token and ends the one before.
func (s *Server) SetupToken(ctx context.Context) (token string, made bool, err error) {
	err = s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error {
		made = false
		var n int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_users WHERE account = ''").Scan(&n); err != nil || n > 0 {
			return err
		}
		token, made = randomText(), true
		_, err := tx.Exec(ctx, "INSERT INTO admin_settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = $2", setupName, s.tokenHash(token))
		return err
	})
	if err != nil {
		return "", false, fmt.Errorf("admin: make the setup token: %w", err)
	}
	return token, made, nil
}

// SetupOpen reports whether the first operator is still to be made.
func (s *Server) SetupOpen(ctx context.Context) (bool, error) {
	var n int
	err := s.db.QueryRow(ctx, "SELECT count(*) FROM admin_settings WHERE name = $1", setupName).Scan(&n)
	return n > 0, err
}

// Setup makes the first operator with the setup token, which works once.
func (s *Server) Setup(ctx context.Context, address, token, name, password string) (User, error) {
	if err := s.countTry(ctx, "setup", address); err != nil {
		return User{}, err
	}
	in := UserInput{Name: normalName(name), Password: password, Owner: true}
	var f faults
	f.check(userName.MatchString(in.Name), "body.name", "must be 2 to 64 letters, digits and .-_@+, beginning with a letter or digit")
	checkNewPassword(&f, "body.password", password, in.Name)
	if err := f.err(); err != nil {
		return User{}, err
	}
	hash := hashPassword(password)
	var u User
	err := s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		err = deleted(tx.Exec(ctx, "DELETE FROM admin_settings WHERE name = $1 AND value = $2", setupName, s.tokenHash(token)))
		if errors.Is(err, ErrNotFound) {
			return ErrSignIn
		}
		if err != nil {
			return err
		}
		u, err = s.insertUser(ctx, tx, in, hash)
		return err
	})
	return u, err
}
