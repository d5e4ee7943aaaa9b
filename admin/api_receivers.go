package admin

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/sqldb"
)

// Contact is where an account's owner is reached.
type Contact struct {
	Name     string `json:"name,omitempty" maxLength:"100" doc:"Default: the account's name."`
	Mail     string `json:"mail,omitempty" maxLength:"254" example:"owner@example.com"`
	Phone    string `json:"phone,omitempty" maxLength:"16" example:"+8613800000000"`
	Language string `json:"language,omitempty" enum:"zh,en" doc:"Of what is sent; default zh."`
}

// SetContact makes or changes the contact of an account's owner, to whom every
// message goes that nobody redirected (MSG-2, MSG-4).
func (s *Server) SetContact(ctx context.Context, account string, c Contact) error {
	m, err := s.messages()
	if err != nil {
		return err
	}
	owner, err := s.Account(ctx, account)
	if err != nil {
		return err
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error { return setContact(ctx, tx, m, &owner, c) })
}

func setContact(ctx context.Context, tx *sqldb.Tx, m Messages, a *Account, c Contact) error {
	return m.SetOwner(ctx, tx, notify.Receiver{Account: a.ID, Name: cmp.Or(c.Name, a.Name), Mail: c.Mail, Phone: c.Phone, Language: cmp.Or(c.Language, "zh")})
}

type wireReceiver struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	Mail          string    `json:"mail,omitempty"`
	Phone         string    `json:"phone,omitempty"`
	Language      string    `json:"language"`
	Owner         bool      `json:"owner" doc:"The account's own contact: it cannot be removed (MSG-4)."`
	MailVerified  bool      `json:"mail_verified" doc:"Nothing goes to an address that was not verified."`
	PhoneVerified bool      `json:"phone_verified"`
	MailFailing   string    `json:"mail_failing,omitempty" doc:"Why the address is taken to be wrong; verify it again."`
	Created       time.Time `json:"created"`
}

func showReceiver(r *notify.Receiver) wireReceiver {
	return wireReceiver{
		ID: r.ID, Name: r.Name, Mail: r.Mail, Phone: r.Phone, Language: r.Language, Owner: r.Owner, MailVerified: r.MailVerified,
		PhoneVerified: r.PhoneVerified, MailFailing: r.MailFailing, Created: r.Created,
	}
}

type wireSetting struct {
	Category  string           `json:"category"`
	Channels  []notify.Channel `json:"channels" enum:"mail,sms,voice"`
	Frequency notify.Frequency `json:"frequency" enum:"now,daily,off"`
	ChangedBy string           `json:"changed_by,omitempty"`
	Changed   *time.Time       `json:"changed,omitempty"`
}

type wireEndpoint struct {
	ID         string    `json:"id"`
	URL        string    `json:"url"`
	Categories []string  `json:"categories" doc:"Empty: all."`
	State      string    `json:"state" enum:"active,disabled"`
	Reason     string    `json:"reason,omitempty" doc:"Why it is disabled."`
	Created    time.Time `json:"created"`
	Secret     string    `json:"secret,omitempty" doc:"It signs the requests after Standard Webhooks; shown when made and when rotated, never again."`
}

func showEndpoint(e *notify.Endpoint) wireEndpoint {
	return wireEndpoint{ID: e.ID, URL: e.URL, Categories: append([]string{}, e.Categories...), State: e.State, Reason: e.Reason, Created: e.Created}
}

// ownSide may look after an account's own messages; operators have none.
var ownSide = []Role{RoleSeller, RoleBuyer}

func (s *Server) registerReceivers() {
	const tag = "Messages"
	handle(s, route{method: http.MethodPut, path: "/accounts/{id}/contact", id: "set-contact", tag: tag, summary: "Where an account's owner is reached", roles: operatorOnly},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Body Contact
		},
		) (*none, error) {
			if err := s.SetContact(ctx, in.ID, in.Body); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "account.contact", slog.String("id", in.ID))
			return nil, nil
		})

	handle(s, route{method: http.MethodGet, path: "/receivers", id: "list-receivers", tag: tag, summary: "Who gets an account's messages", roles: anyRole},
		func(ctx context.Context, a Actor, in *ForAccount) (*body[list[wireReceiver]], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			account, err := forAccount(a, "query.account_id", in.Account)
			if err != nil {
				return nil, err
			}
			items, err := m.Receivers(ctx, account)
			if err != nil {
				return nil, err
			}
			return listed(items, "", showReceiver), nil
		})

	handle(s, route{method: http.MethodPost, path: "/receivers", id: "add-receiver", tag: tag, summary: "Add a receiver, who gets nothing before an address is verified and a category chosen", roles: ownSide, status: 201},
		func(ctx context.Context, a Actor, in *struct{ Body Contact }) (*body[wireReceiver], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			r, err := m.AddReceiver(ctx, notify.Receiver{Account: a.Account, Name: in.Body.Name, Mail: in.Body.Mail, Phone: in.Body.Phone, Language: cmp.Or(in.Body.Language, "zh")})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "receiver.add", slog.String("id", r.ID))
			return reply(showReceiver(&r)), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/receivers/{id}", id: "remove-receiver", tag: tag, summary: "Remove a receiver", roles: ownSide},
		func(ctx context.Context, a Actor, in *ByID) (*none, error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			if err := m.RemoveReceiver(ctx, a.Account, in.ID); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "receiver.remove", slog.String("id", in.ID))
			return nil, nil
		})

	handle(s, route{method: http.MethodPost, path: "/receivers/{id}/verification", id: "start-verification", tag: tag, summary: "Send a code to an address of a receiver", roles: ownSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Body struct {
				Channel notify.Channel `json:"channel" enum:"mail,sms"`
			}
		},
		) (*none, error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			return nil, m.StartVerification(ctx, a.Account, in.ID, in.Body.Channel)
		})

	handle(s, route{method: http.MethodPost, path: "/receivers/{id}/verify", id: "verify-receiver", tag: tag, summary: "Enter the code that was sent", roles: ownSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Body struct {
				Code string `json:"code" minLength:"6" maxLength:"6"`
			}
		},
		) (*none, error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			return nil, m.Verify(ctx, a.Account, in.ID, in.Body.Code)
		})

	handle(s, route{method: http.MethodGet, path: "/receivers/{id}/settings", id: "list-settings", tag: tag, summary: "What a receiver gets, by category", roles: ownSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[list[wireSetting]], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			items, err := m.Settings(ctx, a.Account, in.ID)
			if err != nil {
				return nil, err
			}
			return listed(items, "", func(v *notify.Setting) wireSetting {
				return wireSetting{Category: v.Category, Channels: append([]notify.Channel{}, v.Channels...), Frequency: v.Frequency, ChangedBy: v.ChangedBy, Changed: instant(v.Changed)}
			}), nil
		})

	handle(s, route{method: http.MethodPut, path: "/receivers/{id}/settings/{category}", id: "set-setting", tag: tag, summary: "Choose what a receiver gets of a category", roles: ownSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Category string `path:"category" maxLength:"32" doc:"balance, expiring, repurchase, order, security or sales."`
			Body     struct {
				Channels  []notify.Channel `json:"channels" enum:"mail,sms,voice" maxItems:"3" doc:"Voice is off unless it is chosen here (ALERT-16)."`
				Frequency notify.Frequency `json:"frequency" enum:"now,daily,off"`
			}
		},
		) (*none, error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			err = m.Set(ctx, a.Account, notify.Setting{Receiver: in.ID, Category: in.Category, Channels: in.Body.Channels, Frequency: in.Body.Frequency, ChangedBy: a.Token})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "receiver.setting", slog.String("id", in.ID), slog.String("category", in.Category))
			return nil, nil
		})
	s.registerEndpoints(tag)
}

func (s *Server) registerEndpoints(tag string) {
	handle(s, route{method: http.MethodGet, path: "/endpoints", id: "list-endpoints", tag: tag, summary: "Webhook endpoints that get messages", roles: ownSide},
		func(ctx context.Context, a Actor, _ *none) (*body[list[wireEndpoint]], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			items, err := m.Endpoints(ctx, a.Account)
			if err != nil {
				return nil, err
			}
			return listed(items, "", showEndpoint), nil
		})

	handle(s, route{method: http.MethodPost, path: "/endpoints", id: "add-endpoint", tag: tag, summary: "Add a webhook endpoint", roles: ownSide, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Body struct {
				URL        string   `json:"url" maxLength:"2000" example:"https://example.com/hooks/tollgate"`
				Categories []string `json:"categories,omitempty" maxItems:"16" doc:"Absent: all."`
			}
		},
		) (*body[wireEndpoint], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			e, secret, err := m.AddEndpoint(ctx, notify.Endpoint{Account: a.Account, URL: in.Body.URL, Categories: in.Body.Categories})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "endpoint.add", slog.String("id", e.ID))
			w := showEndpoint(&e)
			w.Secret = secret
			return reply(w), nil
		})

	type rotated struct {
		Secret string `json:"secret" doc:"The one before signs as well for 24 hours."`
	}
	handle(s, route{method: http.MethodPost, path: "/endpoints/{id}/rotate", id: "rotate-endpoint-secret", tag: tag, summary: "Give an endpoint a new secret", roles: ownSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[rotated], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			secret, err := m.RotateSecret(ctx, a.Account, in.ID)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "endpoint.rotate", slog.String("id", in.ID))
			return reply(rotated{secret}), nil
		})

	for _, action := range []struct {
		method, suffix, name, summary string
		do                            func(m Messages) func(ctx context.Context, account, id string) error
	}{
		{http.MethodPost, "/enable", "enable", "Use a disabled endpoint again", func(m Messages) func(context.Context, string, string) error { return m.EnableEndpoint }},
		{http.MethodDelete, "", "remove", "Remove an endpoint", func(m Messages) func(context.Context, string, string) error { return m.RemoveEndpoint }},
	} {
		handle(s, route{method: action.method, path: "/endpoints/{id}" + action.suffix, id: action.name + "-endpoint", tag: tag, summary: action.summary, roles: ownSide},
			func(ctx context.Context, a Actor, in *ByID) (*none, error) {
				m, err := s.messages()
				if err != nil {
					return nil, err
				}
				if err := action.do(m)(ctx, a.Account, in.ID); err != nil {
					return nil, err
				}
				s.audit(ctx, a, "endpoint."+action.name, slog.String("id", in.ID))
				return nil, nil
			})
	}
}
