package admin

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// Role is what a token may do.
type Role string

// The roles (ROLE-1..3).
const (
	RoleOperator Role = "operator" // runs the marketplace: everything
	RoleSeller   Role = "seller"   // its own products
	RoleBuyer    Role = "buyer"    // its own subscriptions, applications and keys
)

// tokenPrefix tells the role of a token at a glance, and secret scanners that
// it is one.
var tokenPrefix = map[Role]string{RoleOperator: "tgo_", RoleSeller: "tgs_", RoleBuyer: "tgb_"}

// Actor is who makes a request.
type Actor struct {
	Role    Role
	Account string // empty for operators
	Token   string // id of the token; of somebody who signed in, "user:" and the user's id

	User      string      // id of the user who signed in; empty for a token
	Confirmed time.Time   // when the user last entered the password
	sub       bool        // a sub-user, whom policies narrow
	policies  []Statement // of a sub-user
}

// owns reports whether a may see what belongs to account.
func (a Actor) owns(account string) bool {
	return a.Role == RoleOperator || (account != "" && a.Account == account)
}

// scope is where the idempotency keys of a are unique: its account, or all
// operators together.
func (a Actor) scope() string {
	if a.Role == RoleOperator {
		return string(RoleOperator)
	}
	return a.Account
}

// Account is a buyer or a seller.
type Account struct {
	ID      string    `json:"id"`
	Kind    Role      `json:"kind" enum:"buyer,seller"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// AccountInput is what an account is made of.
type AccountInput struct {
	Kind Role   `json:"kind" enum:"buyer,seller" doc:"What the account does."`
	Name string `json:"name" minLength:"1" maxLength:"128" doc:"Unique among all accounts."`
	// Contact of the owner, as verified: whoever makes the account knows it.
	Contact *Contact `json:"contact,omitempty" doc:"Where the owner is reached; can be set later."`
}

// Validate returns every fault of in.
func (in *AccountInput) Validate() error {
	var f faults
	f.check(in.Kind == RoleBuyer || in.Kind == RoleSeller, "body.kind", "must be buyer or seller")
	checkText(&f, "body.name", in.Name, 1, 128)
	return f.err()
}

// checkText adds a fault unless text is valid UTF-8 of min to max characters
// without control characters or surrounding space.
func checkText(f *faults, location, text string, min, max int) {
	n := utf8.RuneCountInString(text)
	switch {
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 && r != '\n' && r != '\t' || r == 0x7f }):
		f.add(location, "must be UTF-8 text without control characters")
	case n < min:
		f.add(location, "must not be empty")
	case n > max:
		f.add(location, fmt.Sprintf("must have at most %d characters", max))
	case strings.TrimSpace(text) != text:
		f.add(location, "must not begin or end with space")
	}
}

// CreateAccount makes an account.
func (s *Server) CreateAccount(ctx context.Context, in AccountInput) (Account, error) {
	return s.createAccount(ctx, onceKey{}, in)
}

func (s *Server) createAccount(ctx context.Context, k onceKey, in AccountInput) (Account, error) {
	if err := in.Validate(); err != nil {
		return Account{}, err
	}
	return once(ctx, s, unseen, k, in, func(ctx context.Context, tx *sqldb.Tx) (Account, error) {
		now := s.now().UTC().Truncate(time.Millisecond)
		a := Account{ID: ids.New(now), Kind: in.Kind, Name: in.Name, Created: now}
		_, err := tx.Exec(ctx, "INSERT INTO admin_accounts (id, kind, name, created) VALUES ($1, $2, $3, $4)", a.ID, string(a.Kind), a.Name, sqldb.Ms(a.Created))
		if sqldb.IsUnique(err) {
			return a, ErrNameTaken
		}
		if err != nil {
			return a, fmt.Errorf("admin: keep the account: %w", err)
		}
		if in.Contact == nil {
			return a, nil
		}
		m, err := s.messages()
		if err != nil {
			return a, err
		}
		return a, setContact(ctx, tx, m, &a, *in.Contact)
	})
}

const accountColumns = "id, kind, name, created"

func scanAccount(r scanner) (a Account, err error) {
	err = r.Scan(&a.ID, &a.Kind, &a.Name, sqldb.Instant{Dst: &a.Created})
	return a, err
}

// Account returns the account with the id.
func (s *Server) Account(ctx context.Context, id string) (Account, error) {
	return one(ctx, s.db, scanAccount, "SELECT "+accountColumns+" FROM admin_accounts WHERE id = $1", id)
}

// AccountByName returns the account with the name.
func (s *Server) AccountByName(ctx context.Context, name string) (Account, error) {
	return one(ctx, s.db, scanAccount, "SELECT "+accountColumns+" FROM admin_accounts WHERE name = $1", name)
}

// Accounts lists accounts, all or those of one kind.
func (s *Server) Accounts(ctx context.Context, kind Role, p Page) ([]Account, error) {
	return all(ctx, s.db, scanAccount, "SELECT "+accountColumns+" FROM admin_accounts WHERE ($1 = '' OR id < $1) AND ($2 = '' OR kind = $2) ORDER BY id DESC LIMIT $3", p.Cursor, string(kind), p.limit())
}

// Token is a bearer token as lists show it.
type Token struct {
	ID          string     `json:"id"`
	Role        Role       `json:"role" enum:"operator,seller,buyer"`
	Account     string     `json:"account_id,omitempty"`
	Masked      string     `json:"masked" doc:"The first and last characters, to tell tokens apart."`
	Description string     `json:"description"`
	Created     time.Time  `json:"created"`
	Expires     *time.Time `json:"expires,omitempty"`
	Revoked     *time.Time `json:"revoked,omitempty"`
}

// NewToken is a token with its secret, which is shown this once.
type NewToken struct {
	Token
	Secret string `json:"token" doc:"Send it as Authorization: Bearer. It is never shown again."`
}

// TokenInput is what a token is made of. The role is the account's kind, or
// operator without an account.
type TokenInput struct {
	Account     string     `json:"account_id,omitempty" doc:"Empty for an operator token."`
	Role        Role       `json:"role" enum:"operator,seller,buyer"`
	Description string     `json:"description,omitempty" maxLength:"255"`
	Expires     *time.Time `json:"expires,omitempty" doc:"Default: never."`
}

// CreateToken makes a bearer token.
func (s *Server) CreateToken(ctx context.Context, in TokenInput) (NewToken, error) {
	return s.createToken(ctx, onceKey{}, in)
}

func (s *Server) createToken(ctx context.Context, k onceKey, in TokenInput) (NewToken, error) {
	var f faults
	f.check(tokenPrefix[in.Role] != "", "body.role", "must be operator, seller or buyer")
	f.check((in.Role == RoleOperator) == (in.Account == ""), "body.account_id", "must be given for a seller or a buyer, and only then")
	checkText(&f, "body.description", in.Description, 0, 255)
	f.check(in.Expires == nil || in.Expires.After(s.now()), "body.expires", "must be in the future")
	if err := f.err(); err != nil {
		return NewToken{}, err
	}
	return once(ctx, s, unseen, k, in, func(ctx context.Context, tx *sqldb.Tx) (NewToken, error) {
		return s.insertToken(ctx, tx, in)
	})
}

func (s *Server) insertToken(ctx context.Context, tx *sqldb.Tx, in TokenInput) (NewToken, error) {
	if in.Account != "" {
		a, err := one(ctx, tx, scanAccount, "SELECT "+accountColumns+" FROM admin_accounts WHERE id = $1", in.Account)
		if errors.Is(err, ErrNotFound) || err == nil && a.Kind != in.Role {
			return NewToken{}, &InvalidError{[]Fault{{"body.account_id", "must be the id of a " + string(in.Role) + " account; list them with GET /api/v1/accounts"}}}
		}
		if err != nil {
			return NewToken{}, err
		}
	}
	now := s.now().UTC().Truncate(time.Millisecond)
	random := randomText()
	t := NewToken{
		Token: Token{
			ID: ids.New(now), Role: in.Role, Account: in.Account, Masked: mask(tokenPrefix[in.Role], random),
			Description: in.Description, Created: now, Expires: in.Expires,
		},
		Secret: tokenPrefix[in.Role] + random,
	}
	var expires int64
	if in.Expires != nil {
		expires = sqldb.Ms(*in.Expires)
	}
	_, err := tx.Exec(ctx, `INSERT INTO admin_tokens (id, role, account, hash, visible, description, created, expires, revoked)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`,
		t.ID, string(t.Role), t.Account, s.tokenHash(t.Secret), t.Masked, t.Description, sqldb.Ms(now), expires)
	if err != nil {
		return NewToken{}, fmt.Errorf("admin: keep the token: %w", err)
	}
	return t, nil
}

// tokenHash is what is kept of a token. Its key is another than the pepper in
// the snapshots: a gateway cannot check tokens, nor look for them.
func (s *Server) tokenHash(secret string) string {
	return hex.EncodeToString(directory.Hash(s.tokenKey, secret))
}

const tokenColumns = "id, role, account, visible, description, created, expires, revoked"

func scanToken(r scanner) (t Token, err error) {
	var expires, revoked time.Time
	err = r.Scan(&t.ID, &t.Role, &t.Account, &t.Masked, &t.Description, sqldb.Instant{Dst: &t.Created}, sqldb.Instant{Dst: &expires}, sqldb.Instant{Dst: &revoked})
	if !expires.IsZero() {
		t.Expires = &expires
	}
	if !revoked.IsZero() {
		t.Revoked = &revoked
	}
	return t, err
}

// Tokens lists tokens, all or those of one account.
func (s *Server) Tokens(ctx context.Context, account string, p Page) ([]Token, error) {
	return all(ctx, s.db, scanToken, "SELECT "+tokenColumns+" FROM admin_tokens WHERE ($1 = '' OR id < $1) AND ($2 = '' OR account = $2) ORDER BY id DESC LIMIT $3", p.Cursor, account, p.limit())
}

// RevokeToken ends a token. Revoking it again changes nothing.
func (s *Server) RevokeToken(ctx context.Context, id string) error {
	return s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := one(ctx, tx, scanToken, "SELECT "+tokenColumns+" FROM admin_tokens WHERE id = $1", id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "UPDATE admin_tokens SET revoked = $2 WHERE id = $1 AND revoked = 0", id, sqldb.Ms(s.now()))
		return err
	})
}

// Authenticate returns the actor of a token. The token is looked up by its
// keyed hash, so the time it takes tells nothing about tokens that exist.
func (s *Server) Authenticate(ctx context.Context, secret string) (Actor, error) {
	if secret == "" || len(secret) > 256 {
		return Actor{}, ErrUnauthenticated
	}
	t, err := one(ctx, s.db, scanToken, "SELECT "+tokenColumns+" FROM admin_tokens WHERE hash = $1", s.tokenHash(secret))
	if errors.Is(err, ErrNotFound) {
		return Actor{}, ErrUnauthenticated
	}
	if err != nil {
		return Actor{}, fmt.Errorf("admin: look for the token: %w", err)
	}
	if t.Revoked != nil || t.Expires != nil && !s.now().Before(*t.Expires) {
		return Actor{}, ErrUnauthenticated
	}
	return Actor{Role: t.Role, Account: t.Account, Token: t.ID}, nil
}

// BootstrapOperator makes the first operator token and returns it. When any
// operator token exists already, made is false and nothing is done; a lost one
// is replaced with CreateToken by whoever has the data folder.
func (s *Server) BootstrapOperator(ctx context.Context) (token NewToken, made bool, err error) {
	err = s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error {
		made = false
		var n int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_tokens WHERE role = 'operator' AND revoked = 0").Scan(&n); err != nil {
			return fmt.Errorf("admin: look for an operator: %w", err)
		}
		if n > 0 {
			return nil
		}
		token, err = s.insertToken(ctx, tx, TokenInput{Role: RoleOperator, Description: "made at the first start"})
		made = err == nil
		return err
	})
	return token, made, err
}
