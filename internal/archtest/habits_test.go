package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTestsKeepTheirHabits holds what tests never do: sleep for a guessed
// time, skip, listen on a fixed port.
func TestTestsKeepTheirHabits(t *testing.T) {
	t.Parallel()
	own, _ := packages(t)
	var broken []string
	for _, p := range own {
		for _, path := range p.files() {
			testkit := strings.HasPrefix(place(p.ImportPath), "internal/testkit")
			if !strings.HasSuffix(path, "_test.go") && !testkit {
				continue
			}
			faults, err := habits(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			broken = append(broken, faults...)
		}
	}
	report(t, broken)
}

// fixedPort is an address with a port that somebody else may have.
var fixedPort = regexp.MustCompile(`^(127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\])?:[1-9][0-9]{1,4}$`)

// habits returns the faults of one test file, each with its position. src is
// the file's text, or nil to read it.
func habits(path string, src any) ([]string, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var faults []string
	fault := func(n ast.Node, text string) {
		faults = append(faults, fmt.Sprintf("%s: %s", fset.Position(n.Pos()), text))
	}
	var look func(n ast.Node, bubble bool)
	look = func(n ast.Node, bubble bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			receiver, method := selector(call.Fun)
			switch {
			case receiver == "synctest" && (method == "Test" || method == "Run"):
				// Time is not real in there: a sleep takes none.
				for _, arg := range call.Args {
					look(arg, true)
				}
				return false
			case receiver == "time" && method == "Sleep" && !bubble:
				fault(call, "time.Sleep in a test: wait for what you need with testkit/wait, or run it in testing/synctest")
			case isTest(receiver) && (method == "Skip" || method == "Skipf" || method == "SkipNow"):
				fault(call, "a test never skips: what is missing fails")
			case strings.HasPrefix(method, "Listen"):
				for _, arg := range call.Args {
					if address, ok := text(arg); ok && fixedPort.MatchString(address) {
						fault(call, "a fixed port may be taken: listen on port 0")
					}
				}
			}
			return true
		})
	}
	look(f, false)
	return faults, nil
}

// selector returns "a", "b" for the expression a.b.
func selector(e ast.Expr) (receiver, name string) {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	if x, ok := s.X.(*ast.Ident); ok {
		receiver = x.Name
	}
	return receiver, s.Sel.Name
}

// isTest says whether a name is one under which tests know their *testing.T.
func isTest(name string) bool {
	switch name {
	case "t", "b", "f", "tb", "rt", "test":
		return true
	}
	return false
}

// text returns the value of a string literal.
func text(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

// TestHabitsAreSeen makes sure that the rules can fail.
func TestHabitsAreSeen(t *testing.T) {
	t.Parallel()
	const src = `package x

func TestX(t *testing.T) {
	time.Sleep(1)
	synctest.Test(t, func(t *testing.T) { time.Sleep(1) })
	t.Skip()
	t.Run("y", func(t *testing.T) { t.Skipf("no server") })
	net.Listen("tcp", "127.0.0.1:8080")
	net.Listen("tcp", "127.0.0.1:0")
	http.ListenAndServe(":80", nil)
	decoder.Skip()
}
`
	faults, err := habits("x_test.go", src)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, fault := range faults {
		position, _, _ := strings.Cut(fault, " ")
		got = append(got, position)
	}
	want := []string{"x_test.go:4:2:", "x_test.go:6:2:", "x_test.go:7:34:", "x_test.go:8:2:", "x_test.go:10:2:"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}
