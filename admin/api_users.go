package admin

import (
	"context"
	"log/slog"
	"net/http"
)

// userFor returns a user of the actor's own account; to an operator any.
func (s *Server) userFor(ctx context.Context, a Actor, id string) (User, error) {
	u, err := s.User(ctx, id)
	if err == nil && a.Role != RoleOperator && !a.owns(u.Account) {
		err = ErrNotFound
	}
	return u, err
}

func (s *Server) registerUsers() {
	const tag = "Users"
	handle(s, route{method: http.MethodPost, path: "/users", id: "create-user", tag: tag, summary: "Make somebody who can sign in", roles: anyRole, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Repeatable
			Body UserInput
		},
		) (*body[User], error) {
			if a.Role != RoleOperator {
				account, err := forAccount(a, "body.account_id", in.Body.Account)
				if err != nil {
					return nil, err
				}
				in.Body.Account = account
			}
			u, err := s.createUser(ctx, in.once(a, "create-user"), in.Body)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "user.create", slog.String("id", u.ID), slog.String("for_account", u.Account), slog.Bool("owner", u.Owner))
			return reply(u), nil
		})

	handle(s, route{method: http.MethodGet, path: "/users", id: "list-users", tag: tag, summary: "List the users of an account", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Account string `query:"account_id" maxLength:"64" doc:"For operators: of this account; left out, the operators."`
		},
		) (*body[list[User]], error) {
			account, err := listAccount(a, in.Account)
			if err != nil {
				return nil, err
			}
			items, err := s.Users(ctx, account, in.page())
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(u *User) string { return u.ID }, same), nil
		})

	handle(s, route{method: http.MethodGet, path: "/users/{id}", id: "get-user", tag: tag, summary: "Show a user", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*body[User], error) {
			u, err := s.userFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			return reply(u), nil
		})

	handle(s, route{method: http.MethodPatch, path: "/users/{id}", id: "update-user", tag: tag, summary: "Change a user's policies, password or state", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Body UserPatch
		},
		) (*body[User], error) {
			if _, err := s.userFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			u, err := s.UpdateUser(ctx, in.ID, in.Body)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "user.update", slog.String("id", u.ID), slog.Bool("disabled", u.Disabled), slog.Bool("password", in.Body.Password != nil), slog.Bool("policies", in.Body.Policies != nil))
			return reply(u), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/users/{id}", id: "delete-user", tag: tag, summary: "End a user and the user's sessions", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*none, error) {
			if _, err := s.userFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if err := s.DeleteUser(ctx, in.ID); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "user.delete", slog.String("id", in.ID))
			return nil, nil
		})
}
