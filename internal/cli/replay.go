package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"tollgate/internal/app"
	"tollgate/internal/config"
)

// ReplayJournal is `tollgate journal replay`.
type ReplayJournal struct {
	Settings
	DryRun bool `help:"Tell what would be done and do nothing."`
	Fence  bool `help:"Replay although the node may be alive: it is refused everything until its next start."`
	JSON   bool `name:"json" help:"Print what was done as JSON."`
}

// Run replays the journal of a dead node.
func (c *ReplayJournal) Run(ctx context.Context, s Streams) error {
	if c.AdminURL != "" && c.Role == "" {
		c.Role = config.RoleGateway
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	r, err := app.Replay(ctx, cfg, app.ReplayOptions{DryRun: c.DryRun, Fence: c.Fence}, logger(cfg.Log, s.Err))
	if r.Node == "" {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(s.Out)
		enc.SetIndent("", "  ")
		if eerr := enc.Encode(r); eerr != nil {
			return eerr
		}
		return err
	}
	did, sent := "settled", "sent"
	if r.DryRun || err != nil {
		did, sent = "to be settled", "to be sent"
	}
	fmt.Fprintf(s.Out, "node %s, start %d: %s\n", r.Node, r.Boot, r.Report)
	for _, u := range r.Settled {
		fmt.Fprintf(s.Out, "%s: %d %s of subscription %s\n", did, u.Units, u.Unit, u.Subscription)
	}
	if len(r.Settled) == 0 && err == nil {
		fmt.Fprintln(s.Out, "the quota store has everything already")
	}
	fmt.Fprintf(s.Out, "%s: %d usage rows, %d of calls that were running when the node died\n", sent, r.Rows, r.Open)
	return err
}
