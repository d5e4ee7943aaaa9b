package embedded

import (
	"context"
	"database/sql"
	"sync"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// dims is the table dim in memory.
type dims struct {
	mu   sync.RWMutex
	ids  map[metering.Group]int64
	list map[int64]*metering.Group
}

const dimColumns = "account, subscription, product, api, model, credential, application, region, node, status, basis, counted"

func (d *dims) load(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT id, "+dimColumns+" FROM dim")
	if err != nil {
		return err
	}
	defer rows.Close()
	known, list := map[metering.Group]int64{}, map[int64]*metering.Group{}
	for rows.Next() {
		var id int64
		var basis uint8
		g := new(metering.Group)
		if err := rows.Scan(&id, &g.Account, &g.Subscription, &g.Product, &g.API, &g.Model, &g.Credential, &g.Application, &g.Region, &g.Node,
			&g.Status, &basis, &g.Counted); err != nil {
			return err
		}
		g.Basis = usage.Basis(basis)
		known[*g], list[id] = id, g
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids, d.list = known, list
	return rows.Err()
}

// match returns the numbers of the groups that a filter lets through, and how
// many there are in all.
func (d *dims) match(f *metering.Filter) (picked map[int64]*metering.Group, all int) {
	m := f.Matcher()
	picked = map[int64]*metering.Group{}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for id, g := range d.list {
		if m.Match(g) {
			picked[id] = g
		}
	}
	return picked, len(d.list)
}

// add makes groups known that were committed.
func (d *dims) add(fresh map[metering.Group]int64) {
	if len(fresh) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for g, id := range fresh {
		d.ids[g], d.list[id] = id, &g
	}
}

func (d *dims) number(g *metering.Group) (int64, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok := d.ids[*g]
	return id, ok
}
