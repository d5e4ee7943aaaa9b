package admin

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"tollgate/billing"
)

type wirePolicyTemplate struct {
	Policy    string   `json:"policy"`
	Version   string   `json:"version"`
	Agency    string   `json:"agency"`
	Trustee   string   `json:"trustee"`
	Actions   []string `json:"actions"`
	Agreement string   `json:"agreement,omitempty" doc:"The version of the agreement that goes with it."`
}

type wireAgency struct {
	ID      string     `json:"id"`
	Account string     `json:"account_id" doc:"Who lets the trustee act."`
	Trustee string     `json:"trustee"`
	Name    string     `json:"name"`
	Policy  string     `json:"policy"`
	Version string     `json:"version"`
	Current bool       `json:"current" doc:"In force, in the policy's current version; otherwise grant it again (DELEG-3)."`
	Granted time.Time  `json:"granted"`
	Deleted *time.Time `json:"deleted,omitempty"`
}

func showAgency(a *billing.Agency) wireAgency {
	return wireAgency{
		ID: a.ID, Account: a.Grantor, Trustee: a.Trustee, Name: a.Name, Policy: a.Policy, Version: a.Version, Current: a.Current, Granted: a.Granted, Deleted: instant(a.Deleted),
	}
}

func (s *Server) registerAgencies() {
	const tag = "Agencies"
	handle(s, route{method: http.MethodGet, path: "/agency-policies", id: "list-agency-policies", tag: tag, summary: "What the platform asks to be authorised for", roles: anyRole},
		func(context.Context, Actor, *none) (*body[list[wirePolicyTemplate]], error) {
			return listed(billing.AgencyPolicies, "", func(p *billing.AgencyPolicy) wirePolicyTemplate {
				w := wirePolicyTemplate{Policy: p.Name, Version: p.Version, Agency: p.Agency, Trustee: p.Trustee, Actions: p.Actions}
				if p.Name == billing.RepurchasePolicy {
					w.Agreement = billing.RepurchaseAgreement
				}
				return w
			}), nil
		})

	handle(s, route{method: http.MethodGet, path: "/agencies", id: "list-agencies", tag: tag, summary: "Who may act for an account", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ForAccount
			All bool `query:"all" doc:"Deleted ones too."`
		},
		) (*body[list[wireAgency]], error) {
			account, err := forAccount(a, "query.account_id", in.Account)
			if err != nil {
				return nil, err
			}
			items, err := s.deps.Billing.Agencies(ctx, account, in.All)
			if err != nil {
				return nil, err
			}
			return listed(items, "", showAgency), nil
		})

	handle(s, route{method: http.MethodPost, path: "/agencies", id: "grant-agency", tag: tag, summary: "Let the platform act for you within a policy", roles: buyerOnly, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Body struct {
				Policy string `json:"policy" maxLength:"64" example:"api_product_repurchase_policy"`
			}
		},
		) (*body[wireAgency], error) {
			agency, err := s.deps.Billing.GrantAgency(ctx, a.Account, in.Body.Policy, a.Token)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "agency.grant", slog.String("id", agency.ID), slog.String("policy", agency.Policy))
			return reply(showAgency(&agency)), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/agencies/{id}", id: "delete-agency", tag: tag, summary: "Take an authorisation back, at once", roles: buyerOnly},
		func(ctx context.Context, a Actor, in *ByID) (*none, error) {
			if err := s.deps.Billing.DeleteAgency(ctx, a.Account, in.ID, a.Token); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "agency.delete", slog.String("id", in.ID))
			return nil, nil
		})
}
