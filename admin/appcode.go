package admin

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// AppCode is a simple-authentication code of an application as lists show it.
type AppCode struct {
	ID          string    `json:"id"`
	Application string    `json:"application_id"`
	Masked      string    `json:"masked" doc:"The first and last characters, to tell codes apart."`
	Created     time.Time `json:"created"`
}

// NewAppCode is an AppCode with its text, which is shown this once.
type NewAppCode struct {
	AppCode
	Code string `json:"app_code" doc:"Send it as X-Apig-AppCode over https. It is never shown again."`
}

// appCodePattern is the rule for a given AppCode; its length is 64 to 180.
var appCodePattern = regexp.MustCompile(`^[A-Za-z0-9+/][A-Za-z0-9+_!@#$%/=-]{63,179}$`)

// CreateAppCode adds an AppCode to an application. With an empty code one of 64
// lower-case hexadecimal digits is made.
func (s *Server) CreateAppCode(ctx context.Context, application, code string) (NewAppCode, error) {
	return s.createAppCode(ctx, onceKey{}, application, code)
}

func (s *Server) createAppCode(ctx context.Context, k onceKey, application, code string) (NewAppCode, error) {
	if code != "" && !appCodePattern.MatchString(code) {
		return NewAppCode{}, &InvalidError{[]Fault{{"body.app_code", "must have 64 to 180 characters of A-Z a-z 0-9 + _ ! @ # $ % / = -, the first a letter, a digit, + or /; or be left out to have one made"}}}
	}
	return once(ctx, s, visible, k, []string{application, code}, func(ctx context.Context, tx *sqldb.Tx) (NewAppCode, error) {
		if _, err := one(ctx, tx, scanApplication, applicationQuery+" WHERE a.id = $1", application); err != nil {
			return NewAppCode{}, err
		}
		var n int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_app_codes WHERE application = $1", application).Scan(&n); err != nil {
			return NewAppCode{}, fmt.Errorf("admin: count the AppCodes: %w", err)
		}
		if n >= s.cfg.MaxAppCodes {
			return NewAppCode{}, ErrAppCodeLimit
		}
		text := code
		if text == "" {
			text = randomHex(32)
		}
		now := s.now().UTC().Truncate(time.Millisecond)
		c := NewAppCode{AppCode: AppCode{ID: ids.New(now), Application: application, Masked: mask("", text), Created: now}, Code: text}
		_, err := tx.Exec(ctx, "INSERT INTO admin_app_codes (id, application, hash, visible, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (hash) DO NOTHING",
			c.ID, c.Application, hex.EncodeToString(directory.Hash(s.pepper, text)), c.Masked, sqldb.Ms(now))
		if err != nil {
			return NewAppCode{}, fmt.Errorf("admin: keep the AppCode: %w", err)
		}
		var kept int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_app_codes WHERE id = $1", c.ID).Scan(&kept); err != nil {
			return NewAppCode{}, err
		}
		if kept == 0 {
			return NewAppCode{}, ErrAppCodeTaken
		}
		return c, nil
	})
}

func scanAppCode(r scanner) (c AppCode, err error) {
	err = r.Scan(&c.ID, &c.Application, &c.Masked, sqldb.Instant{Dst: &c.Created})
	return c, err
}

// AppCodes lists the AppCodes of an application.
func (s *Server) AppCodes(ctx context.Context, application string) ([]AppCode, error) {
	return all(ctx, s.db, scanAppCode, "SELECT id, application, visible, created FROM admin_app_codes WHERE application = $1 ORDER BY id DESC", application)
}

// DeleteAppCode ends an AppCode.
func (s *Server) DeleteAppCode(ctx context.Context, application, id string) error {
	return s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		return deleted(tx.Exec(ctx, "DELETE FROM admin_app_codes WHERE application = $1 AND id = $2", application, id))
	})
}
