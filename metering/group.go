package metering

import (
	"strconv"

	"tollgate/internal/usage"
)

// Group is what the calls of one rollup row have in common. Every filter and
// every grouping is by a field of it.
type Group struct {
	Account, Subscription, Product, API, Model, Credential, Application, Region, Node string

	Status  int
	Basis   usage.Basis
	Counted bool
}

// GroupOf returns the group of a call.
func GroupOf(r *usage.Record) Group {
	return Group{
		Account: r.Account, Subscription: r.Subscription, Product: r.Product, API: r.API, Model: r.Model, Credential: r.Credential,
		Application: r.Application, Region: r.Region, Node: r.Node, Status: r.Status, Basis: r.Basis, Counted: r.Has(usage.Counted),
	}
}

// Key returns the row of by that the group belongs to; empty for time series.
func (g *Group) Key(by GroupBy) string {
	switch by {
	case GroupKey:
		return g.Credential
	case GroupAPI:
		return g.API
	case GroupModel:
		return g.Model
	case GroupStatus:
		return strconv.Itoa(g.Status)
	case GroupAccount:
		return g.Account
	case GroupSubscription:
		return g.Subscription
	case GroupProduct:
		return g.Product
	case GroupApplication:
		return g.Application
	case GroupRegion:
		return g.Region
	case GroupNode:
		return g.Node
	case GroupBasis:
		return g.Basis.String()
	default:
		return ""
	}
}

// Matcher tells which groups a filter lets through.
type Matcher struct {
	texts   [9]map[string]bool
	status  map[int]bool
	class   map[int]bool
	basis   map[usage.Basis]bool
	counted *bool
}

func set[T comparable](values []T) map[T]bool {
	if len(values) == 0 {
		return nil
	}
	m := make(map[T]bool, len(values))
	for _, v := range values {
		m[v] = true
	}
	return m
}

// Matcher returns the filter in a form that is quick to ask.
func (f *Filter) Matcher() *Matcher {
	m := &Matcher{status: set(f.Statuses), class: set(f.StatusClasses), basis: set(f.Bases), counted: f.Counted}
	for i, values := range [][]string{f.Accounts, f.Subscriptions, f.Products, f.APIs, f.Models, f.Credentials, f.Applications, f.Regions, f.Nodes} {
		m.texts[i] = set(values)
	}
	return m
}

// Match reports whether the filter lets the group through.
func (m *Matcher) Match(g *Group) bool {
	for i, v := range [...]string{g.Account, g.Subscription, g.Product, g.API, g.Model, g.Credential, g.Application, g.Region, g.Node} {
		if m.texts[i] != nil && !m.texts[i][v] {
			return false
		}
	}
	return (m.status == nil || m.status[g.Status]) && (m.class == nil || m.class[g.Status/100]) &&
		(m.basis == nil || m.basis[g.Basis]) && (m.counted == nil || *m.counted == g.Counted)
}
