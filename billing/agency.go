package billing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// AgencyPolicy is what a trustee may do for a grantor, as the platform defines
// it (DELEG-2: nobody edits one).
type AgencyPolicy struct {
	Name    string
	Version string
	Agency  string // name of the agency that carries it
	Trustee string
	Actions []string
}

// PlatformTrustee is the platform's system account, which orders for buyers.
const PlatformTrustee = "platform"

// The names of DELEG-10. The second agency name is the older one, which is still
// honoured where it exists (REPO-10).
const (
	AgencyName       = "mkp_agency_trust"
	agencyNameBefore = "mkp_admin_trust"
	RepurchasePolicy = "api_product_repurchase_policy"
)

// AgencyPolicies are all there are. Raising a Version makes the policy's service
// ask for consent again (DELEG-3).
var AgencyPolicies = []AgencyPolicy{{
	Name: RepurchasePolicy, Version: "1.1", Agency: AgencyName, Trustee: PlatformTrustee,
	Actions: []string{"marketplace:order:create", "marketplace:order:pay", "marketplace:order:query", "billing:balance:view"},
}}

// policyVersion is the version of the repurchase policy in force.
func policyVersion() string { return AgencyPolicies[0].Version }

// Agency is a grantor's consent (DELEG-6). One that was deleted stays as a
// trace.
type Agency struct {
	ID        string
	Grantor   string // account
	Trustee   string
	Name      string
	Policy    string
	Version   string // of the policy, when it was granted
	Current   bool   // Version is the one in force: with an older one nothing is done (REPO-37)
	GrantedBy string
	Granted   time.Time
	DeletedBy string
	Deleted   time.Time // zero: in force
}

// GrantAgency records that an account lets the platform act within a policy. One
// that is there with the policy's current version is returned as it is; one with
// an older version is replaced.
func (s *Service) GrantAgency(ctx context.Context, account, policy, actor string) (Agency, error) {
	i := slices.IndexFunc(AgencyPolicies, func(p AgencyPolicy) bool { return p.Name == policy })
	if i < 0 {
		return Agency{}, fmt.Errorf("%w: there is no policy %q: give %s", ErrInvalid, policy, RepurchasePolicy)
	}
	p := AgencyPolicies[i]
	var out Agency
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		// The buyer's lock: two that grant at once make one agency.
		if err := lockBuyer(ctx, tx, account, now); err != nil {
			return err
		}
		have, err := collect(ctx, tx, scanAgency, agencyColumns+` WHERE grantor = $1 AND name = $2 AND policy = $3 AND deleted_ms = 0`, account, p.Agency, p.Name)
		if err != nil {
			return err
		}
		if len(have) > 0 {
			if out = have[0]; out.Version == p.Version {
				return nil
			}
			if _, err := tx.Exec(ctx, `UPDATE billing_agency SET deleted_ms = $2, deleted_by = $3 WHERE id = $1`, out.ID, sqldb.Ms(now), actor); err != nil {
				return err
			}
		}
		out = Agency{
			ID: ids.New(now), Grantor: account, Trustee: p.Trustee, Name: p.Agency, Policy: p.Name, Version: p.Version, Current: true,
			GrantedBy: actor, Granted: now,
		}
		_, err = tx.Exec(ctx, `INSERT INTO billing_agency (id, grantor, trustee, name, policy, version, granted_by, granted_ms, deleted_by, deleted_ms)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', 0)`, out.ID, account, out.Trustee, out.Name, out.Policy, out.Version, actor, sqldb.Ms(now))
		return err
	})
	if err != nil {
		return Agency{}, fmt.Errorf("grant an agency: %w", err)
	}
	s.wakeBuyer() // what waited for it goes on (REPO-33)
	return out, nil
}

// DeleteAgency takes a consent back. It acts at once (DELEG-4): an order that is
// being made either was paid before, or fails for want of it.
func (s *Service) DeleteAgency(ctx context.Context, account, id, actor string) error {
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		if err := lockBuyer(ctx, tx, account, now); err != nil {
			return err
		}
		res, err := tx.Exec(ctx, `UPDATE billing_agency SET deleted_ms = $3, deleted_by = $4 WHERE id = $1 AND grantor = $2 AND deleted_ms = 0`, id, account, sqldb.Ms(now), actor)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return ErrAgencyNotFound
	})
	if err != nil {
		return fmt.Errorf("delete agency %s: %w", id, err)
	}
	return nil
}

// Agencies lists an account's agencies, the newest first; deleted ones too if
// all is set.
func (s *Service) Agencies(ctx context.Context, account string, all bool) ([]Agency, error) {
	list, err := collect(ctx, s.db, scanAgency, agencyColumns+` WHERE grantor = $1 AND (deleted_ms = 0 OR $2) ORDER BY id DESC`, account, all)
	if err != nil {
		return nil, fmt.Errorf("agencies of account %s: %w", account, err)
	}
	return list, nil
}

// mayRepurchase finds the agency by which the platform may order for an account
// now, and false if there is none. The caller holds the buyer's lock, which
// deletion takes too.
func mayRepurchase(ctx context.Context, q sqldb.Querier, account string) (Agency, bool, error) {
	have, err := collect(ctx, q, scanAgency, agencyColumns+` WHERE grantor = $1 AND name IN ($2, $3) AND policy = $4 AND version = $5 AND deleted_ms = 0 ORDER BY id DESC`,
		account, AgencyName, agencyNameBefore, RepurchasePolicy, policyVersion())
	if err != nil || len(have) == 0 {
		return Agency{}, false, err
	}
	return have[0], true, nil
}

const agencyColumns = `SELECT id, grantor, trustee, name, policy, version, granted_by, granted_ms, deleted_by, deleted_ms FROM billing_agency`

func scanAgency(row scanner) (Agency, error) {
	var a Agency
	err := row.Scan(&a.ID, &a.Grantor, &a.Trustee, &a.Name, &a.Policy, &a.Version, &a.GrantedBy, sqldb.Instant{Dst: &a.Granted}, &a.DeletedBy, sqldb.Instant{Dst: &a.Deleted})
	for _, p := range AgencyPolicies {
		a.Current = a.Current || p.Name == a.Policy && p.Version == a.Version && a.Deleted.IsZero()
	}
	return a, err
}
