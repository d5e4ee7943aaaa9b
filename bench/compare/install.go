package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// portkeyPackage is the version of Portkey's gateway the comparison knows.
const portkeyPackage = "@portkey-ai/gateway@1.15.2"

// install installs what is missing of the targets.
func install(ctx context.Context, portkeyDir string, progress io.Writer) error {
	var packages []string
	for _, p := range []struct{ program, pkg string }{{"nginx", "nginx-light"}, {"haproxy", "haproxy"}, {"redis-server", "redis-server"}, {"npm", "npm"}} {
		if _, err := find(p.program, ""); missing(err) {
			packages = append(packages, p.pkg)
		}
	}
	if len(packages) > 0 {
		if err := aptInstall(ctx, packages, progress); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(portkeyDir, "node_modules", "@portkey-ai", "gateway")); err == nil {
		return nil
	}
	return execute(ctx, progress, nil, "npm", "install", "--prefix", portkeyDir, "--no-audit", "--no-fund", "--ignore-scripts", portkeyPackage)
}

// policyFile is Debian's own way to keep the services of a package down that is
// being installed.
const policyFile = "/usr/sbin/policy-rc.d"

func aptInstall(ctx context.Context, packages []string, progress io.Writer) (err error) {
	apt := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("there is no apt-get here: install %v, or what they are called on this system, by hand", packages)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root may install: run sudo apt-get install -y --no-install-recommends %v", packages)
	}
	if _, err := os.Stat(policyFile); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policyFile, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil { //nolint:gosec // apt runs it
			return err
		}
		defer func() { err = errors.Join(err, os.Remove(policyFile)) }()
	}
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	if err := execute(ctx, progress, env, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	return execute(ctx, progress, env, "apt-get", apt...)
}

func execute(ctx context.Context, progress io.Writer, env []string, name string, args ...string) error {
	fmt.Fprintln(progress, "running", name, args)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out.last())
	}
	return nil
}
