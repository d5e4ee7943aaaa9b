package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tollgate/internal/testkit/checkout"
)

// module is the path of ours.
const module = "tollgate"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Name         string
	Standard     bool
	DepOnly      bool
	Module       *struct{ Path string }
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// files returns the paths of the package's Go files, tests among them.
func (p *pkg) files() []string {
	var all []string
	for _, group := range [][]string{p.GoFiles, p.CgoFiles, p.TestGoFiles, p.XTestGoFiles} {
		for _, name := range group {
			all = append(all, filepath.Join(p.Dir, name))
		}
	}
	return all
}

// place returns the import path as seen from the module: "." for main,
// "internal/ids", "gateway/upstream".
func place(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

// ours says whether an import path is the module's or below it.
func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// top returns the first element of a place: "gateway" of "gateway/upstream".
func top(place string) string {
	first, _, _ := strings.Cut(place, "/")
	return first
}

// listed is the answer of `go list`, asked once.
var listed = sync.OnceValues(func() (map[string]*pkg, error) {
	root, err := checkout.Find()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "list", "-e", "-deps", "-test=false",
		"-json=ImportPath,Dir,Name,Standard,DepOnly,Module,GoFiles,CgoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	all := map[string]*pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		p := new(pkg)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		all[p.ImportPath] = p
	}
})

// packages returns every package of the module and, by import path, all that
// is known of their dependencies.
func packages(t *testing.T) (own []*pkg, all map[string]*pkg) {
	t.Helper()
	all, err := listed()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if ours(p.ImportPath) && !p.DepOnly {
			own = append(own, p)
		}
	}
	if len(own) < 5 {
		t.Fatalf("go list knows only %d packages of %s: the rules would hold for nothing", len(own), module)
	}
	return own, all
}

// project returns a name for the third party an import path belongs to, the
// same for all modules of one project: "github.com/knadh/koanf" for its core,
// its parsers and its providers. It is empty for the standard library, for
// ours, and for golang.org/x, which the Go project keeps itself.
func project(importPath string) string {
	first, _, _ := strings.Cut(importPath, "/")
	if !strings.Contains(first, ".") || ours(importPath) || strings.HasPrefix(importPath, "golang.org/x/") {
		return ""
	}
	parts := strings.Split(importPath, "/")
	n := 2
	if first == "github.com" || first == "gitlab.com" {
		n = 3
	}
	return path.Join(parts[:min(n, len(parts))]...)
}
