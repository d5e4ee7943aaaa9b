package admin

import (
	"context"
	"log/slog"
	"net/http"
)

type me struct {
	Role    Role   `json:"role" enum:"operator,seller,buyer"`
	Account string `json:"account_id,omitempty"`
	Name    string `json:"name,omitempty" doc:"The account's name."`
	Region  string `json:"region" doc:"Where this deployment serves."`
}

func (s *Server) registerIdentity() {
	const tag = "Identity"
	handle(s, route{method: http.MethodGet, path: "/me", id: "get-me", tag: tag, summary: "Who the token belongs to", roles: anyRole},
		func(ctx context.Context, a Actor, _ *none) (*body[me], error) {
			out := me{Role: a.Role, Account: a.Account, Region: s.cfg.Region}
			if a.Account != "" {
				account, err := s.Account(ctx, a.Account)
				if err != nil {
					return nil, err
				}
				out.Name = account.Name
			}
			return reply(out), nil
		})

	handle(s, route{method: http.MethodPost, path: "/accounts", id: "create-account", tag: tag, summary: "Make an account", roles: operatorOnly, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Repeatable
			Body AccountInput
		},
		) (*body[Account], error) {
			account, err := s.createAccount(ctx, in.once(a, "create-account"), in.Body)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "account.create", slog.String("id", account.ID))
			return reply(account), nil
		})

	handle(s, route{method: http.MethodGet, path: "/accounts", id: "list-accounts", tag: tag, summary: "List accounts", roles: operatorOnly},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Kind Role `query:"kind" enum:"buyer,seller" doc:"Only these."`
		},
		) (*body[list[Account]], error) {
			items, err := s.Accounts(ctx, in.Kind, in.page())
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(v *Account) string { return v.ID }, same), nil
		})

	handle(s, route{method: http.MethodGet, path: "/accounts/{id}", id: "get-account", tag: tag, summary: "Show an account", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*body[Account], error) {
			if !a.owns(in.ID) {
				return nil, ErrNotFound
			}
			account, err := s.Account(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return reply(account), nil
		})

	handle(s, route{method: http.MethodPost, path: "/tokens", id: "create-token", tag: tag, summary: "Make a bearer token", roles: operatorOnly, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Repeatable
			Body TokenInput
		},
		) (*body[NewToken], error) {
			token, err := s.createToken(ctx, in.once(a, "create-token"), in.Body)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "token.create", slog.String("id", token.ID), slog.String("for_role", string(token.Role)), slog.String("for_account", token.Account))
			return reply(token), nil
		})

	handle(s, route{method: http.MethodGet, path: "/tokens", id: "list-tokens", tag: tag, summary: "List bearer tokens", roles: operatorOnly},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Account string `query:"account_id" maxLength:"64" doc:"Only those of this account."`
		},
		) (*body[list[Token]], error) {
			items, err := s.Tokens(ctx, in.Account, in.page())
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(v *Token) string { return v.ID }, same), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/tokens/{id}", id: "revoke-token", tag: tag, summary: "Revoke a bearer token, at once", roles: operatorOnly},
		func(ctx context.Context, a Actor, in *ByID) (*none, error) {
			if err := s.RevokeToken(ctx, in.ID); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "token.revoke", slog.String("id", in.ID))
			return nil, nil
		})
}
