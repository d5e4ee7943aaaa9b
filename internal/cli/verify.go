package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"tollgate/internal/app"
)

// Verify is `tollgate verify`.
type Verify struct {
	Settings
	JSON bool `name:"json" help:"Print the comparison as JSON."`
}

// errDrift ends verify with exit code 1.
var errDrift = errors.New("the books do not balance")

// Run compares journal, quota store and usage store.
func (c *Verify) Run(ctx context.Context, s Streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	r, damaged := app.Verify(ctx, cfg, logger(cfg.Log, s.Err))
	if damaged != nil && !errors.Is(damaged, app.ErrDamaged) {
		return damaged
	}
	if c.JSON {
		enc := json.NewEncoder(s.Out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "subscription\tunit\tjournal\tquota\tusage\tdrift")
		for _, l := range r.Subscriptions {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\n", l.Subscription, l.Unit, l.Journal, l.Quota, l.Usage, l.Drift)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	switch {
	case damaged != nil:
		return damaged
	case r.Drift != 0:
		return errDrift
	case !r.Complete:
		return errors.New("not every gateway could be asked: the figures are provisional")
	}
	if !c.JSON {
		fmt.Fprintln(s.Out, "The books balance.")
	}
	return nil
}
