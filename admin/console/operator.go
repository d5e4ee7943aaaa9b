package console

import (
	"net/http"
	"time"

	"tollgate/admin"
)

type operationsData struct {
	Recon *struct {
		AsOf          time.Time `json:"as_of"`
		Complete      bool      `json:"complete"`
		Drift         int64     `json:"drift"`
		Subscriptions []struct {
			Subscription string `json:"subscription_id"`
			Unit         string `json:"unit"`
			Journal      int64  `json:"journal"`
			Quota        int64  `json:"quota"`
			Usage        int64  `json:"usage"`
			Drift        int64  `json:"drift"`
		} `json:"subscriptions"`
	}
	Store *struct {
		Whole      bool   `json:"whole"`
		Rebuilding string `json:"rebuilding"`
		Generation int64  `json:"generation"`
		Rebuilds   int64  `json:"rebuilds"`
	}
	Upstreams []upstreamState
	Names     map[string]string
}

type upstreamState struct {
	Node      string    `json:"node"`
	At        time.Time `json:"at"`
	Product   string    `json:"product_id"`
	ID        string    `json:"upstream_id"`
	Breaker   string    `json:"breaker"`
	Available bool      `json:"available"`
	InFlight  int64     `json:"in_flight"`
	Attempts  int64     `json:"attempts"`
	Failures  int64     `json:"failures"`
}

func operationsView(v *view) (d operationsData, err error) {
	ok, err := v.maybe("/reconciliation", &d.Recon)
	if err != nil {
		return d, err
	}
	if !ok {
		d.Recon = nil
	}
	if ok, err = v.maybe("/quota/store", &d.Store); err != nil {
		return d, err
	}
	if !ok {
		d.Store = nil
	}
	var l list[upstreamState]
	if _, err := v.maybe("/upstreams", &l); err != nil {
		return d, err
	}
	d.Upstreams = l.Items
	d.Names, err = productNames(v)
	return d, err
}

func operations(v *view) error {
	d, err := operationsView(v)
	if err != nil {
		return err
	}
	return v.show("operations", d)
}

func liveOperations(v *view) error {
	d, err := operationsView(v)
	if err != nil {
		return err
	}
	return v.fragment("operations", "state", d)
}

func accounts(v *view) error {
	var l list[admin.Account]
	if err := v.get("/accounts?limit=50"+cursor(v), &l); err != nil {
		return err
	}
	return v.show("accounts", l)
}

func createAccount(v *view) error {
	f := v.r.PostForm
	var a admin.Account
	if err := v.call(http.MethodPost, "/accounts", map[string]any{"kind": f.Get("kind"), "name": f.Get("name")}, &a); err != nil {
		var l list[admin.Account]
		if other := v.get("/accounts?limit=50", &l); other != nil {
			return other
		}
		return v.again("accounts", l, err)
	}
	return v.to(at("/accounts/%s", a.ID))
}

type oneAccount struct {
	admin.Account
	Available string
	Entries   []entryWire
}

func accountState(v *view) (d oneAccount, err error) {
	id := v.r.PathValue("id")
	if err := v.get(at("/accounts/%s", id), &d.Account); err != nil {
		return d, err
	}
	if d.Kind != admin.RoleBuyer {
		return d, nil
	}
	var b balanceWire
	if err := v.get(at("/accounts/%s/balance", id), &b); err != nil {
		return d, err
	}
	d.Available = b.Available
	var l list[entryWire]
	if err := v.get(at("/accounts/%s/statement?limit=20", id), &l); err != nil {
		return d, err
	}
	d.Entries = l.Items
	return d, nil
}

func accountPage(v *view) error {
	d, err := accountState(v)
	if err != nil {
		return err
	}
	return v.show("accountone", d)
}

func topUp(v *view) error {
	f, id := v.r.PostForm, v.r.PathValue("id")
	err := v.call(http.MethodPost, at("/accounts/%s/top-ups", id), map[string]any{"amount": f.Get("amount"), "receipt": f.Get("receipt")}, nil)
	if err != nil {
		d, other := accountState(v)
		if other != nil {
			return other
		}
		return v.again("accountone", d, err)
	}
	return v.to(at("/accounts/%s", id))
}
