package redisstore

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/usage"
)

var (
	//go:embed scripts/prelude.lua
	prelude string
	//go:embed scripts/sync.lua
	syncText string
	//go:embed scripts/close.lua
	closeText string
	//go:embed scripts/grant.lua
	grantText string
	//go:embed scripts/bounds.lua
	boundsText string
	//go:embed scripts/watch.lua
	watchText string
	//go:embed scripts/tend.lua
	tendText string
	//go:embed scripts/dump.lua
	dumpText string
	//go:embed scripts/fold.lua
	foldText string
	//go:embed scripts/mark.lua
	markText string

	syncScript   = script(syncText)
	closeScript  = script(closeText)
	grantScript  = script(grantText)
	boundsScript = script(boundsText)
	watchScript  = script(watchText)
	tendScript   = script(tendText)
	foldScript   = script(foldText)
	dumpScript   = goredis.NewScript(dumpText)
	markScript   = goredis.NewScript(markText)
)

// script puts what all steps share before one of them.
func script(step string) *goredis.Script {
	return goredis.NewScript(unitNames() + "\n" + prelude + "\n" + step)
}

// unitNames is the table of billing items in Lua.
func unitNames() string {
	var b strings.Builder
	b.WriteString("local UNITS = {[0]=")
	for u := range usage.NumUnits {
		if u > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", u.String())
	}
	b.WriteString("}")
	return b.String()
}

// keys returns the keys of a subscription in the order the scripts expect.
func (s *Store) keys(id string) []string {
	tag := s.set.prefix + "{" + id + "}:"
	return []string{tag + "l", tag + "b", tag + "i", tag + "n", tag + "m", tag + "x", tag + "g"}
}

// run runs a step on the keys of a subscription.
func (s *Store) run(ctx context.Context, script *goredis.Script, id string, args ...any) ([]any, error) {
	v, err := script.Run(ctx, s.client, s.keys(id), args...).Slice()
	if err != nil {
		return nil, fmt.Errorf("quota: redis: subscription %s: %w", id, err)
	}
	return v, nil
}

// errUnconfirmed says that too few replicas confirmed a write in time.
var errUnconfirmed = errors.New("quota: redis: too few replicas confirmed in time")

// runConfirmed runs a step and waits, on the same connection, until the wanted
// number of replicas has what it wrote. The step's answer is returned together
// with errUnconfirmed when they did not confirm.
func (s *Store) runConfirmed(ctx context.Context, script *goredis.Script, id string, args ...any) ([]any, error) {
	if s.set.wait == 0 {
		return s.run(ctx, script, id, args...)
	}
	keys := s.keys(id)
	text := false // the hash is not known there: send the text
	for try := 0; ; try++ {
		client, err := s.master(ctx, keys[0])
		if err != nil {
			return nil, fmt.Errorf("quota: redis: subscription %s: %w", id, err)
		}
		// Both commands of a pipeline travel on one connection, and WAIT is
		// about what its own connection wrote.
		pipe := client.Pipeline()
		var step *goredis.Cmd
		if text {
			step = script.Eval(ctx, pipe, keys, args...)
		} else {
			step = pipe.EvalSha(ctx, script.Hash(), keys, args...)
		}
		waited := pipe.Do(ctx, "WAIT", s.set.wait, s.set.waitTimeout.Milliseconds())
		_, _ = pipe.Exec(ctx) // each command's own error is looked at below
		v, err := step.Slice()
		switch {
		case err == nil:
			if n, err := waited.Int(); err != nil || n < s.set.wait {
				return v, errUnconfirmed
			}
			return v, nil
		case goredis.HasErrorPrefix(err, "NOSCRIPT") && !text:
			text = true
		case try < 3 && (goredis.HasErrorPrefix(err, "MOVED") || goredis.HasErrorPrefix(err, "READONLY")):
			if c, ok := s.client.(*goredis.ClusterClient); ok {
				c.ReloadState(ctx)
			}
		default:
			return nil, fmt.Errorf("quota: redis: subscription %s: %w", id, err)
		}
	}
}

// master returns the client of the server that holds key.
func (s *Store) master(ctx context.Context, key string) (goredis.UniversalClient, error) {
	if c, ok := s.client.(*goredis.ClusterClient); ok {
		return c.MasterForKey(ctx, key)
	}
	return s.client, nil
}
