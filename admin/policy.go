package admin

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
)

// The kinds of what a policy is for.
const (
	PolicyProduct      = "product"
	PolicySubscription = "subscription"
	PolicyApplication  = "application"
	PolicyAPIKey       = "api_key"
)

// Bounds of a policy: what APIG takes (gateway-wire section 3.4).
const (
	maxNetworks = 100
	maxLimit    = 1<<31 - 1
)

// Policy returns the limits and address lists of one thing; none is an empty
// policy.
func (s *Server) policy(ctx context.Context, kind, id string) (p directory.Policy, err error) {
	err = s.db.QueryRow(ctx, "SELECT policy FROM admin_policies WHERE kind = $1 AND id = $2", kind, id).Scan(sqldb.JSON(&p))
	if errors.Is(err, sql.ErrNoRows) {
		return directory.Policy{}, nil
	}
	if err != nil {
		return p, fmt.Errorf("admin: read a policy: %w", err)
	}
	return p, nil
}

// SetPolicy puts limits and address lists into force on every gateway, within
// 5 s like every change of the directory. An empty policy ends the one there is.
func (s *Server) SetPolicy(ctx context.Context, kind, id string, p directory.Policy) error {
	if err := checkPolicy(kind, &p); err != nil {
		return err
	}
	return s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM admin_policies WHERE kind = $1 AND id = $2", kind, id); err != nil {
			return fmt.Errorf("admin: replace a policy: %w", err)
		}
		if p.Zero() {
			return nil
		}
		_, err := tx.Exec(ctx, "INSERT INTO admin_policies (kind, id, policy, updated) VALUES ($1, $2, $3, $4)", kind, id, sqldb.JSON(p), sqldb.Ms(s.now()))
		if err != nil {
			return fmt.Errorf("admin: keep a policy: %w", err)
		}
		return nil
	})
}

func checkPolicy(kind string, p *directory.Policy) error {
	var f faults
	limits := func(at string, l directory.Limits) {
		for _, v := range []struct {
			name string
			n    int64
		}{
			{"requests_per_second", l.RequestsPerSecond},
			{"requests_per_minute", l.RequestsPerMinute},
			{"tokens_per_minute", l.TokensPerMinute},
			{"concurrency", l.Concurrency},
		} {
			f.check(v.n >= -1 && v.n <= maxLimit, at+v.name, fmt.Sprintf("must be from 1 to %d; 0 leaves it to the gateway's settings, -1 lifts the limit", maxLimit))
		}
	}
	limits("body.", p.Limits)
	if kind == PolicyProduct {
		limits("body.each.", p.Each)
	} else {
		f.check(p.Each == directory.Limits{}, "body.each", "belongs to products only")
	}
	f.check(kind != PolicySubscription || len(p.Allow)+len(p.Deny) == 0, "body.allow", "belongs to products, applications and API keys")
	for name, list := range map[string][]string{"body.allow": p.Allow, "body.deny": p.Deny} {
		f.check(len(list) <= maxNetworks, name, fmt.Sprintf("must hold at most %d networks", maxNetworks))
		for i, text := range list {
			at := name + "[" + strconv.Itoa(i) + "]"
			if _, err := directory.ParseNetwork(text); err != nil {
				f.add(at, "must be a network as in 10.0.0.0/8, or an address")
			}
			f.check(!slices.Contains(list[:i], text), at, "is listed twice")
		}
	}
	return f.err()
}

// withinLimits refuses limits that a buyer may not give its own credentials:
// those looser than what the platform allows every credential, or than what an
// operator has granted this one. Without it the platform's bound would bind
// only those who leave it alone.
func withinLimits(want, granted, platform directory.Limits) error {
	var f faults
	for _, v := range []struct {
		name                    string
		want, granted, platform int64
	}{
		{"requests_per_second", want.RequestsPerSecond, granted.RequestsPerSecond, platform.RequestsPerSecond},
		{"requests_per_minute", want.RequestsPerMinute, granted.RequestsPerMinute, platform.RequestsPerMinute},
		{"tokens_per_minute", want.TokensPerMinute, granted.TokensPerMinute, platform.TokensPerMinute},
		{"concurrency", want.Concurrency, granted.Concurrency, platform.Concurrency},
	} {
		most := max(v.platform, v.granted)
		if v.platform <= 0 || v.granted < 0 || v.want == 0 {
			continue // nothing bounds it, an operator lifted it, or it falls back to the platform's
		}
		f.check(v.want > 0 && v.want <= most, "body."+v.name, fmt.Sprintf("must be from 1 to %d for a credential of yours; ask the operator for more", most))
	}
	return f.err()
}

// snapPolicies puts the policies where they belong in the snapshot.
func (s *Server) snapPolicies(ctx context.Context, snap *directory.Snapshot) error {
	type row struct {
		kind, id string
		policy   directory.Policy
	}
	rows, err := all(ctx, s.db, func(r scanner) (o row, err error) {
		err = r.Scan(&o.kind, &o.id, sqldb.JSON(&o.policy))
		return o, err
	}, "SELECT kind, id, policy FROM admin_policies")
	if err != nil || len(rows) == 0 {
		return err
	}
	of := make(map[[2]string]*directory.Policy, len(rows))
	for i := range rows {
		of[[2]string{rows[i].kind, rows[i].id}] = &rows[i].policy
	}
	for i := range snap.Products {
		snap.Products[i].Policy = of[[2]string{PolicyProduct, snap.Products[i].ID}]
	}
	for i := range snap.Applications {
		snap.Applications[i].Policy = of[[2]string{PolicyApplication, snap.Applications[i].ID}]
	}
	for i := range snap.APIKeys {
		snap.APIKeys[i].Policy = of[[2]string{PolicyAPIKey, snap.APIKeys[i].ID}]
	}
	subs := slices.Clone(snap.Subscriptions) // they are billing's
	for i := range subs {
		subs[i].Policy = of[[2]string{PolicySubscription, subs[i].ID}]
	}
	snap.Subscriptions = subs
	return nil
}
