package admin

import (
	"context"
	"log/slog"
	"net/http"
)

// registerQuotaStore adds what an operator asks of the quota store as a whole.
func (s *Server) registerQuotaStore(tag string) {
	handle(s, route{method: http.MethodGet, path: "/quota/store", id: "get-quota-store", tag: tag, summary: "How the quota store stands", roles: operatorOnly},
		func(context.Context, Actor, *none) (*body[QuotaStore], error) {
			if s.deps.Rebuilder == nil {
				return nil, ErrUnavailable
			}
			return reply(s.deps.Rebuilder.QuotaStore()), nil
		})

	handle(s, route{
		method: http.MethodPost, path: "/quota/rebuild", id: "rebuild-quota-store", tag: tag,
		summary: "Compare the quota store with the books; with dry_run false, restore what it lacks", roles: operatorOnly,
	},
		func(ctx context.Context, a Actor, in *struct {
			Body struct {
				DryRun *bool `json:"dry_run,omitempty" doc:"Only compare, which is the default. A store that lost something is rebuilt by itself; with false it is done now, and calls that no lease covers are refused with 503 meanwhile."`
			}
		},
		) (*body[QuotaRebuild], error) {
			if s.deps.Rebuilder == nil {
				return nil, ErrUnavailable
			}
			dry := in.Body.DryRun == nil || *in.Body.DryRun
			// A rebuild does not end half-way because its caller left.
			r, err := s.deps.Rebuilder.Rebuild(context.WithoutCancel(ctx), dry)
			if err != nil {
				return nil, err
			}
			if !dry {
				s.audit(ctx, a, "quota.rebuild", slog.Int("short", r.Short))
			}
			return reply(r), nil
		})
}
