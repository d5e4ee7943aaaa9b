package cli

import (
	"context"
	"fmt"

	"tollgate/internal/app"
)

// Migrate is `tollgate migrate`.
type Migrate struct{ Settings }

// Run migrates.
func (c *Migrate) Run(ctx context.Context, s Streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if err := app.Migrate(ctx, cfg, logger(cfg.Log, s.Err)); err != nil {
		return err
	}
	fmt.Fprintln(s.Out, "The SQL store has the schema of this binary.")
	return nil
}
