package admin

import (
	"context"
	"log/slog"
	"net/http"
)

// apiKeyFor returns an API key that is the actor's.
func (s *Server) apiKeyFor(ctx context.Context, a Actor, id string) (APIKey, error) {
	k, err := s.APIKey(ctx, id)
	if err == nil && !a.owns(k.Account) {
		err = ErrNotFound
	}
	return k, err
}

func (s *Server) registerAPIKeys() {
	const tag = "API keys"
	handle(s, route{method: http.MethodPost, path: "/api-keys", id: "create-api-key", tag: tag, summary: "Make an API key; it is shown once", roles: buyerSide, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Repeatable
			Body struct {
				Account     string   `json:"account_id,omitempty" maxLength:"64" doc:"For operators; the buyer's own account otherwise."`
				Description string   `json:"description,omitempty" maxLength:"255"`
				Products    []string `json:"products,omitempty" maxItems:"256" doc:"The LLM products it may call; default: all that the account buys."`
			}
		},
		) (*body[NewAPIKey], error) {
			account, err := forAccount(a, "body.account_id", in.Body.Account)
			if err != nil {
				return nil, err
			}
			key, err := s.createAPIKey(ctx, in.once(a, "create-api-key"), APIKeyInput{Account: account, Description: in.Body.Description, Products: in.Body.Products})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "api_key.create", slog.String("id", key.ID))
			return reply(key), nil
		})

	handle(s, route{method: http.MethodGet, path: "/api-keys", id: "list-api-keys", tag: tag, summary: "List API keys", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Account string `query:"account_id" maxLength:"64" doc:"Only those of this buyer."`
		},
		) (*body[list[APIKey]], error) {
			account, err := listAccount(a, in.Account)
			if err != nil {
				return nil, err
			}
			items, err := s.APIKeys(ctx, account, in.page())
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(k *APIKey) string { return k.ID }, same), nil
		})

	handle(s, route{method: http.MethodGet, path: "/api-keys/{id}", id: "get-api-key", tag: tag, summary: "Show an API key, without its secret", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[APIKey], error) {
			k, err := s.apiKeyFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			return reply(k), nil
		})

	handle(s, route{method: http.MethodPatch, path: "/api-keys/{id}", id: "update-api-key", tag: tag, summary: "Enable, disable, describe or narrow an API key", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Body struct {
				Description *string   `json:"description,omitempty" maxLength:"255"`
				Products    *[]string `json:"products,omitempty" maxItems:"256" doc:"[] lets it call all that the account has bought."`
				Enabled     *bool     `json:"enabled,omitempty"`
			}
		},
		) (*body[APIKey], error) {
			if _, err := s.apiKeyFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			k, err := s.UpdateAPIKey(ctx, in.ID, APIKeyPatch{Description: in.Body.Description, Products: in.Body.Products, Enabled: in.Body.Enabled})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "api_key.update", slog.String("id", k.ID), slog.Bool("enabled", k.Enabled))
			return reply(k), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/api-keys/{id}", id: "delete-api-key", tag: tag, summary: "End an API key, at once and for good", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*none, error) {
			if _, err := s.apiKeyFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if err := s.DeleteAPIKey(ctx, in.ID); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "api_key.delete", slog.String("id", in.ID))
			return nil, nil
		})
}
