package cli

import (
	"fmt"

	"tollgate/internal/config"
)

// Config is `tollgate config`.
type Config struct {
	Check CheckConfig `cmd:"" help:"Check the configuration; exit code 1 when something is wrong."`
	Print PrintConfig `cmd:"" help:"Print every key with its value, secrets masked."`
}

// CheckConfig is `tollgate config check`.
type CheckConfig struct{ Settings }

// Run checks.
func (c *CheckConfig) Run(s Streams) error {
	if _, err := c.load(); err != nil {
		return err
	}
	fmt.Fprintln(s.Out, "The configuration is in order.")
	return nil
}

// PrintConfig is `tollgate config print`.
type PrintConfig struct{ Settings }

// Run prints.
func (c *PrintConfig) Run(s Streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	fmt.Fprint(s.Out, config.Print(cfg))
	return nil
}
