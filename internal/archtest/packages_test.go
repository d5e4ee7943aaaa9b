package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tollgate/internal/testkit/checkout"
)

// longest is how many lines a file may have before it must be split.
const longest = 500

// longFiles lists the files that are longer for a reason, by their path from
// the checkout.
var longFiles = map[string]string{}

// withREADME are the packages that state in a README what they own and what
// always holds in them.
var withREADME = []string{"quota", "metering", "billing"}

func TestEveryPackageHasItsComment(t *testing.T) {
	t.Parallel()
	own, _ := packages(t)
	var broken []string
	for _, p := range own {
		if len(p.GoFiles) == 0 && len(p.CgoFiles) == 0 {
			broken = append(broken, fmt.Sprintf("%s has no doc.go: say there what the package is for", p.ImportPath))
			continue
		}
		// A command's comment stands in main.go, beside its only function.
		name, opening := "doc.go", "Package "+p.Name+" "
		if p.Name == "main" {
			name, opening = "main.go", ""
		}
		comment, err := packageComment(filepath.Join(p.Dir, name))
		switch {
		case err != nil:
			broken = append(broken, fmt.Sprintf("%s: %v", p.ImportPath, err))
		case comment == "":
			broken = append(broken, fmt.Sprintf("%s/%s has no package comment", p.ImportPath, name))
		case !strings.HasPrefix(comment, opening):
			broken = append(broken, fmt.Sprintf("%s/%s: the package comment does not begin with %q", p.ImportPath, name, opening))
		}
	}
	report(t, broken)
}

// packageComment returns the comment above a file's package clause.
func packageComment(path string) (string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
	if err != nil {
		return "", err
	}
	if f.Doc == nil {
		return "", nil
	}
	return f.Doc.Text(), nil
}

func TestFilesAreShort(t *testing.T) {
	t.Parallel()
	own, _ := packages(t)
	root := checkout.Root(t)
	var broken []string
	for _, p := range own {
		for _, path := range p.files() {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if generated(path, data) {
				continue
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			lines := bytes.Count(data, []byte("\n"))
			if lines > longest && longFiles[filepath.ToSlash(name)] == "" {
				broken = append(broken, fmt.Sprintf("%s has %d lines: split it by noun, or list it in longFiles with the reason", name, lines))
			}
		}
	}
	report(t, broken)
}

// generated says whether a program wrote the file, by Go's own convention.
func generated(path string, data []byte) bool {
	f, err := parser.ParseFile(token.NewFileSet(), path, data, parser.PackageClauseOnly|parser.ParseComments)
	return err == nil && ast.IsGenerated(f)
}

func TestREADMEsExist(t *testing.T) {
	t.Parallel()
	own, _ := packages(t)
	exists := map[string]*pkg{}
	for _, p := range own {
		exists[place(p.ImportPath)] = p
	}
	for _, name := range withREADME {
		p := exists[name]
		if p == nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(p.Dir, "README.md"))
		if err != nil {
			t.Errorf("%s: %v: it states what the package owns and its invariants", name, err)
			continue
		}
		if !bytes.Contains(bytes.ToLower(data), []byte("invariant")) {
			t.Errorf("%s/README.md does not state the package's invariants", name)
		}
	}
}
