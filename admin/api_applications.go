package admin

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"tollgate/internal/directory"
)

type wireAppKey struct {
	Key    string    `json:"app_key"`
	Secret string    `json:"app_secret" doc:"*** here; POST …/secret/reveal shows it, and is audited."`
	Reset  time.Time `json:"reset" doc:"When the secret was made."`
}

type wireBinding struct {
	Product string `json:"product_id"`
	Default bool   `json:"default" doc:"Made by a purchase; stays while the subscription is active."`
}

type wireApplication struct {
	ID       string        `json:"id"`
	Account  string        `json:"account_id"`
	Region   string        `json:"region"`
	Name     string        `json:"name"`
	Market   bool          `json:"market" doc:"Whether purchases made it (MARKETPLACE_APP)."`
	Key      wireAppKey    `json:"key"`
	Bindings []wireBinding `json:"bindings"`
	Created  time.Time     `json:"created"`
}

func showApplication(a *Application) wireApplication {
	w := wireApplication{
		ID: a.ID, Account: a.Account, Region: a.Region, Name: a.Name, Market: a.Market, Created: a.Created,
		Key: wireAppKey{Key: a.Key.Key, Secret: Masked, Reset: a.Key.Reset}, Bindings: []wireBinding{},
	}
	for _, b := range a.Bindings {
		w.Bindings = append(w.Bindings, wireBinding(b))
	}
	return w
}

type wireSecret struct {
	Key    string `json:"app_key"`
	Secret string `json:"app_secret" doc:"In clear. Keep it as you would a password."`
}

// applicationFor returns an application that is the actor's.
func (s *Server) applicationFor(ctx context.Context, a Actor, id string) (Application, error) {
	app, err := s.Application(ctx, id)
	if err == nil && !a.owns(app.Account) {
		err = ErrNotFound
	}
	return app, err
}

func (s *Server) registerApplications() {
	const tag = "Applications"
	handle(s, route{method: http.MethodPost, path: "/applications", id: "create-application", tag: tag, summary: "Make an application with a key pair", roles: buyerSide, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Repeatable
			Body struct {
				Account string `json:"account_id,omitempty" maxLength:"64" doc:"For operators; the buyer's own account otherwise."`
				Name    string `json:"name" minLength:"1" maxLength:"64" doc:"Unique within the account."`
			}
		},
		) (*body[wireApplication], error) {
			account, err := forAccount(a, "body.account_id", in.Body.Account)
			if err != nil {
				return nil, err
			}
			app, err := s.createApplication(ctx, in.once(a, "create-application"), account, in.Body.Name)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "application.create", slog.String("id", app.ID))
			return reply(showApplication(&app)), nil
		})

	handle(s, route{method: http.MethodGet, path: "/applications", id: "list-applications", tag: tag, summary: "List applications", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Account string `query:"account_id" maxLength:"64" doc:"Only those of this buyer."`
		},
		) (*body[list[wireApplication]], error) {
			account, err := listAccount(a, in.Account)
			if err != nil {
				return nil, err
			}
			items, err := s.Applications(ctx, account, in.page())
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(v *Application) string { return v.ID }, showApplication), nil
		})

	handle(s, route{method: http.MethodGet, path: "/applications/{id}", id: "get-application", tag: tag, summary: "Show an application", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[wireApplication], error) {
			app, err := s.applicationFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			return reply(showApplication(&app)), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/applications/{id}", id: "delete-application", tag: tag, summary: "Delete an application: its credentials end at once", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*none, error) {
			if _, err := s.applicationFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if err := s.DeleteApplication(ctx, in.ID); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "application.delete", slog.String("id", in.ID))
			return nil, nil
		})

	for _, action := range []struct {
		name, summary string
		do            func(context.Context, Actor, string) (directory.Secret, error)
	}{
		{"reveal", "Show the AppSecret in clear; audited", s.RevealSecret},
		{"reset", "Replace the AppSecret: the old one ends at once", s.ResetSecret},
	} {
		// The secret is the buyer's alone: an operator cannot read it.
		handle(s, route{method: http.MethodPost, path: "/applications/{id}/secret/" + action.name, id: action.name + "-app-secret", tag: tag, summary: action.summary, roles: buyerOnly},
			func(ctx context.Context, a Actor, in *ByID) (*body[wireSecret], error) {
				app, err := s.applicationFor(ctx, a, in.ID)
				if err != nil {
					return nil, err
				}
				secret, err := action.do(ctx, a, in.ID)
				if err != nil {
					return nil, err
				}
				return reply(wireSecret{Key: app.Key.Key, Secret: secret.Reveal()}), nil
			})
	}

	type binding struct {
		ByID
		Product string `path:"product_id" maxLength:"64" doc:"The product's id."`
	}
	for _, action := range []struct {
		method, name, summary string
		do                    func(context.Context, string, string) error
	}{
		{http.MethodPut, "bind", "Let an application call a product that was bought", s.Bind},
		{http.MethodDelete, "unbind", "Take a product from an application, at once", s.Unbind},
	} {
		handle(s, route{method: action.method, path: "/applications/{id}/bindings/{product_id}", id: action.name + "-application", tag: tag, summary: action.summary, roles: buyerSide},
			func(ctx context.Context, a Actor, in *binding) (*none, error) {
				if _, err := s.applicationFor(ctx, a, in.ID); err != nil {
					return nil, err
				}
				if err := action.do(ctx, in.ID, in.Product); err != nil {
					return nil, err
				}
				s.audit(ctx, a, "application."+action.name, slog.String("id", in.ID), slog.String("product", in.Product))
				return nil, nil
			})
	}
	s.registerAppCodes(tag)
}

func (s *Server) registerAppCodes(tag string) {
	handle(s, route{method: http.MethodPost, path: "/applications/{id}/app-codes", id: "create-app-code", tag: tag, summary: "Add an AppCode; it is shown once", roles: buyerSide, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Repeatable
			Body struct {
				Code string `json:"app_code,omitempty" maxLength:"180" doc:"64 to 180 characters of your choice; left out, one is made."`
			}
		},
		) (*body[NewAppCode], error) {
			if _, err := s.applicationFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			code, err := s.createAppCode(ctx, in.once(a, "create-app-code"), in.ID, in.Body.Code)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "app_code.create", slog.String("application", in.ID), slog.String("id", code.ID))
			return reply(code), nil
		})

	handle(s, route{method: http.MethodGet, path: "/applications/{id}/app-codes", id: "list-app-codes", tag: tag, summary: "List the AppCodes of an application", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[list[AppCode]], error) {
			if _, err := s.applicationFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			items, err := s.AppCodes(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return listed(items, "", same), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/applications/{id}/app-codes/{code_id}", id: "delete-app-code", tag: tag, summary: "End an AppCode, at once", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Code string `path:"code_id" maxLength:"64" doc:"The AppCode's id."`
		},
		) (*none, error) {
			if _, err := s.applicationFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if err := s.DeleteAppCode(ctx, in.ID, in.Code); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "app_code.delete", slog.String("application", in.ID), slog.String("id", in.Code))
			return nil, nil
		})
}
