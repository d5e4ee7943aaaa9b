package admin

import (
	"context"
	"log/slog"
	"net/http"

	"tollgate/internal/directory"
)

type wireLimits struct {
	RequestsPerSecond int64 `json:"requests_per_second,omitempty" minimum:"-1" maximum:"2147483647"`
	RequestsPerMinute int64 `json:"requests_per_minute,omitempty" minimum:"-1" maximum:"2147483647"`
	TokensPerMinute   int64 `json:"tokens_per_minute,omitempty" minimum:"-1" maximum:"2147483647" doc:"Input and output together; the estimate is reserved and corrected afterwards."`
	Concurrency       int64 `json:"concurrency,omitempty" minimum:"-1" maximum:"2147483647" doc:"Calls at once."`
}

// wirePolicy repeats the fields of wireLimits: the generator of the API document
// does not see embedded ones.
type wirePolicy struct {
	RequestsPerSecond int64 `json:"requests_per_second,omitempty" minimum:"-1" maximum:"2147483647" doc:"0 leaves a limit to the gateway's settings, -1 lifts it."`
	RequestsPerMinute int64 `json:"requests_per_minute,omitempty" minimum:"-1" maximum:"2147483647"`
	TokensPerMinute   int64 `json:"tokens_per_minute,omitempty" minimum:"-1" maximum:"2147483647" doc:"Input and output together; the estimate is reserved and corrected afterwards."`
	Concurrency       int64 `json:"concurrency,omitempty" minimum:"-1" maximum:"2147483647" doc:"Calls at once."`

	Each  *wireLimits `json:"each,omitempty" doc:"Of a product: the limits of each of its subscriptions that has none of its own."`
	Allow []string    `json:"allow,omitempty" maxItems:"100" doc:"Networks that may call; default: all. Not for subscriptions."`
	Deny  []string    `json:"deny,omitempty" maxItems:"100" doc:"Networks that may not. Not for subscriptions."`
}

func showPolicy(p directory.Policy) wirePolicy {
	w := wirePolicy{
		RequestsPerSecond: p.RequestsPerSecond, RequestsPerMinute: p.RequestsPerMinute, TokensPerMinute: p.TokensPerMinute, Concurrency: p.Concurrency,
		Allow: p.Allow, Deny: p.Deny,
	}
	if p.Each != (directory.Limits{}) {
		each := wireLimits(p.Each)
		w.Each = &each
	}
	return w
}

func (w *wirePolicy) read() directory.Policy {
	p := directory.Policy{
		Limits: directory.Limits{RequestsPerSecond: w.RequestsPerSecond, RequestsPerMinute: w.RequestsPerMinute, TokensPerMinute: w.TokensPerMinute, Concurrency: w.Concurrency},
		Allow:  w.Allow, Deny: w.Deny,
	}
	if w.Each != nil {
		p.Each = directory.Limits(*w.Each)
	}
	return p
}

// registerPolicies serves the limits and address lists of what gateways serve:
// a seller sets those of its products and of their subscriptions, a buyer those
// of its own credentials.
func (s *Server) registerPolicies() {
	const tag = "Limits"
	for _, k := range []struct {
		kind, path, name, summary string
		read, write               []Role
		may                       func(context.Context, Actor, string) error
	}{
		{PolicyProduct, "/products/{id}/policy", "product", "a product", anyRole, sellerSide, func(ctx context.Context, a Actor, id string) error {
			_, err := s.productFor(ctx, a, id)
			return err
		}},
		{PolicySubscription, "/subscriptions/{id}/policy", "subscription", "a subscription", anyRole, sellerSide, func(ctx context.Context, a Actor, id string) error {
			_, err := s.subscriptionFor(ctx, a, id)
			return err
		}},
		{PolicyApplication, "/applications/{id}/policy", "application", "an application, its AppKey and AppCodes together", buyerSide, buyerSide, func(ctx context.Context, a Actor, id string) error {
			_, err := s.applicationFor(ctx, a, id)
			return err
		}},
		{PolicyAPIKey, "/api-keys/{id}/policy", "api-key", "an API key", buyerSide, buyerSide, func(ctx context.Context, a Actor, id string) error {
			_, err := s.apiKeyFor(ctx, a, id)
			return err
		}},
	} {
		handle(s, route{method: http.MethodGet, path: k.path, id: "get-" + k.name + "-policy", tag: tag, summary: "Show the limits and address lists of " + k.summary, roles: k.read},
			func(ctx context.Context, a Actor, in *ByID) (*body[wirePolicy], error) {
				if err := k.may(ctx, a, in.ID); err != nil {
					return nil, err
				}
				p, err := s.policy(ctx, k.kind, in.ID)
				if err != nil {
					return nil, err
				}
				return reply(showPolicy(p)), nil
			})
		handle(s, route{method: http.MethodPut, path: k.path, id: "set-" + k.name + "-policy", tag: tag, summary: "Set the limits and address lists of " + k.summary, roles: k.write},
			func(ctx context.Context, a Actor, in *struct {
				ByID
				Body wirePolicy
			},
			) (*body[wirePolicy], error) {
				if err := k.may(ctx, a, in.ID); err != nil {
					return nil, err
				}
				p := in.Body.read()
				if a.Role == RoleBuyer {
					before, err := s.policy(ctx, k.kind, in.ID)
					if err != nil {
						return nil, err
					}
					if err := withinLimits(p.Limits, before.Limits, s.cfg.CredentialLimits); err != nil {
						return nil, err
					}
				}
				if err := s.SetPolicy(ctx, k.kind, in.ID, p); err != nil {
					return nil, err
				}
				s.audit(ctx, a, k.kind+".policy", slog.String("id", in.ID))
				return reply(showPolicy(p)), nil
			})
	}
}
