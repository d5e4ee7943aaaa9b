package archtest

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// planes are the top-level packages. None knows another, but that admin knows
// the root types of three; internal/app joins them.
var planes = []string{"gateway", "quota", "metering", "billing", "admin", "bench"}

// adminMayUse are the packages whose root types admin speaks in. Their
// sub-packages, stores among them, are not for it.
var adminMayUse = []string{"quota", "metering", "billing", "billing/notify"}

// thirdParties lists the internal packages that join more than one third
// party, with the reason.
var thirdParties = map[string]string{
	"internal/app":                          "joins everything",
	"internal/testkit/clickhouse/chdbfront": "purego loads the engine; ClickHouse's own client writes its blocks",
	"internal/config":                       "koanf, and mapstructure, with which koanf decodes, to refuse unknown keys",
	"internal/sqldb":                        "opens SQLite and PostgreSQL and migrates both",
}

// mayImport returns why the package at place from must not import the one at
// place to, or "". Both are ours. In a test, from may use testkit, the mock
// upstream of bench, and whatever its package may use.
func mayImport(from, to string, test bool) string {
	inTestkit := strings.HasPrefix(from, "internal/testkit")
	switch {
	case to == ".":
		return "main is not to be imported"
	case strings.HasPrefix(to, "internal/testkit"):
		if test || inTestkit {
			return ""
		}
		return "testkit is for tests"
	case to == "internal/cli":
		if from == "." {
			return ""
		}
		return "only main starts the command line"
	case to == "internal/app":
		if from == "internal/cli" || strings.HasPrefix(from, "internal/cli/") || test && strings.HasPrefix(from, "internal/app") {
			return ""
		}
		return "only internal/cli runs the wiring"
	}
	if from == "." {
		return "main only calls internal/cli"
	}
	if !slices.Contains(planes, top(to)) || from == "internal/app" || strings.HasPrefix(from, "internal/app/") {
		return ""
	}
	switch {
	case top(from) == top(to):
		return ""
	case test && top(to) == "bench":
		return ""
	case from == "internal/e2e" && test:
		return ""
	case top(from) == "admin" && test && to == "metering/embedded":
		return "" // its tests read real usage rows
	case top(from) == "admin" && slices.Contains(adminMayUse, to):
		return ""
	case top(from) == "internal":
		return "internal packages do not know the top-level ones; only internal/app joins them"
	case top(to) == "bench":
		return "nobody imports bench"
	case top(from) == "admin" && slices.Contains(adminMayUse, top(to)):
		return "admin knows the root types of billing, metering and quota, not their sub-packages"
	}
	return "top-level packages do not know each other: declare what you call in deps.go and let internal/app join them"
}

func TestImportsFollowTheRules(t *testing.T) {
	t.Parallel()
	own, _ := packages(t)
	var broken []string
	for _, p := range own {
		for _, group := range []struct {
			imports []string
			test    bool
		}{{p.Imports, false}, {p.TestImports, true}, {p.XTestImports, true}} {
			for _, imported := range group.imports {
				if !ours(imported) {
					continue
				}
				if why := mayImport(place(p.ImportPath), place(imported), group.test); why != "" {
					broken = append(broken, fmt.Sprintf("%s imports %s: %s", p.ImportPath, imported, why))
				}
			}
		}
	}
	report(t, broken)
}

// TestTheRulesForbidWhatTheyShould makes sure that the rules can fail.
func TestTheRulesForbidWhatTheyShould(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		from, to string
		test     bool
		allowed  bool
	}{
		{from: ".", to: "internal/cli", allowed: true},
		{from: ".", to: "internal/app"},
		{from: ".", to: "gateway"},
		{from: "internal/cli", to: "internal/app", allowed: true},
		{from: "internal/cli", to: "internal/apisign", allowed: true},
		{from: "internal/cli", to: "gateway"},
		{from: "internal/app", to: "gateway", allowed: true},
		{from: "internal/app", to: "quota/redis", allowed: true},
		{from: "internal/app", to: "bench", allowed: true},
		{from: "gateway", to: "internal/app"},
		{from: "gateway", to: "internal/usage", allowed: true},
		{from: "gateway", to: "gateway/upstream", allowed: true},
		{from: "gateway/upstream", to: "gateway", allowed: true},
		{from: "gateway", to: "quota"},
		{from: "gateway", to: "quota", test: true},
		{from: "gateway", to: "bench/mock", test: true, allowed: true},
		{from: "gateway", to: "bench/mock"},
		{from: "quota", to: "billing"},
		{from: "metering", to: "quota"},
		{from: "billing", to: "admin"},
		{from: "admin", to: "billing", allowed: true},
		{from: "admin/api", to: "quota", allowed: true},
		{from: "admin", to: "quota/redis"},
		{from: "admin", to: "metering/embedded"},
		{from: "admin", to: "metering/embedded", test: true, allowed: true},
		{from: "admin", to: "gateway"},
		{from: "bench", to: "gateway"},
		{from: "internal/usage", to: "metering"},
		{from: "internal/usage", to: "metering", test: true},
		{from: "internal/usage", to: "internal/ids", allowed: true},
		{from: "quota", to: "internal/testkit/redis", test: true, allowed: true},
		{from: "quota", to: "internal/testkit/redis"},
		{from: "internal/testkit/redis", to: "internal/testkit/process", allowed: true},
		{from: "internal/e2e", to: ".", test: true},
	} {
		if why := mayImport(tc.from, tc.to, tc.test); (why == "") != tc.allowed {
			t.Errorf("%s -> %s (test %v): %q, want allowed = %v", tc.from, tc.to, tc.test, why, tc.allowed)
		}
	}
}

// TestTheDataPlaneHasNoSQL follows the gateway's imports through our own
// packages: a third party may bring what it likes.
func TestTheDataPlaneHasNoSQL(t *testing.T) {
	t.Parallel()
	own, all := packages(t)
	var broken []string
	for _, p := range own {
		if top(place(p.ImportPath)) != "gateway" {
			continue
		}
		for _, way := range reaches(all, p.ImportPath, func(imported string) bool {
			return imported == "database/sql" || strings.HasPrefix(imported, "modernc.org/sqlite") || strings.HasPrefix(imported, "github.com/jackc/pgx")
		}) {
			broken = append(broken, way+": the data plane knows no SQL")
		}
	}
	report(t, broken)
}

// reaches returns the ways over our own packages from one to an import that
// bad says is wrong, each as "a -> b -> c".
func reaches(all map[string]*pkg, from string, bad func(string) bool) []string {
	seen := map[string]bool{}
	var ways []string
	var walk func(at, way string)
	walk = func(at, way string) {
		if seen[at] || all[at] == nil {
			return
		}
		seen[at] = true
		for _, imported := range all[at].Imports {
			next := way + " -> " + imported
			if bad(imported) {
				ways = append(ways, next)
			} else if ours(imported) {
				walk(imported, next)
			}
		}
	}
	walk(from, from)
	return ways
}

func TestReachesFindsTheWay(t *testing.T) {
	t.Parallel()
	all := map[string]*pkg{
		"tollgate/a": {Imports: []string{"fmt", "tollgate/b", "example.com/x"}},
		"tollgate/b": {Imports: []string{"tollgate/a", "database/sql"}},
		// A third party's own imports are not followed.
		"example.com/x": {Imports: []string{"database/sql"}},
	}
	got := reaches(all, "tollgate/a", func(s string) bool { return s == "database/sql" })
	if diff := cmp.Diff([]string{"tollgate/a -> tollgate/b -> database/sql"}, got); diff != "" {
		t.Fatal(diff)
	}
}

// TestInternalPackagesHaveOneThirdParty keeps the vocabulary small: an
// internal package wraps one library, or none.
func TestInternalPackagesHaveOneThirdParty(t *testing.T) {
	t.Parallel()
	own, _ := packages(t)
	var broken []string
	for _, p := range own {
		at := place(p.ImportPath)
		if top(at) != "internal" || thirdParties[at] != "" {
			continue
		}
		parties := map[string]bool{}
		for _, imported := range p.Imports {
			if name := project(imported); name != "" {
				parties[name] = true
			}
		}
		if len(parties) > 1 {
			broken = append(broken, fmt.Sprintf("%s imports %d third parties (%s): split it, or list it in thirdParties with the reason",
				p.ImportPath, len(parties), strings.Join(sorted(parties), ", ")))
		}
	}
	report(t, broken)
}

func TestProjectJoinsTheModulesOfOneProject(t *testing.T) {
	t.Parallel()
	for importPath, want := range map[string]string{
		"github.com/knadh/koanf/v2":                "github.com/knadh/koanf",
		"github.com/knadh/koanf/providers/env/v2":  "github.com/knadh/koanf",
		"modernc.org/sqlite/lib":                   "modernc.org/sqlite",
		"pgregory.net/rapid":                       "pgregory.net/rapid",
		"golang.org/x/time/rate":                   "",
		"net/http":                                 "",
		"tollgate/internal/ids":                    "",
		"gopkg.in/yaml.v3":                         "gopkg.in/yaml.v3",
		"github.com/prometheus/client_golang/prom": "github.com/prometheus/client_golang",
	} {
		if got := project(importPath); got != want {
			t.Errorf("project(%s) = %q, want %q", importPath, got, want)
		}
	}
}

// sorted returns the keys of a set in order.
func sorted(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// report fails the test with each broken rule on a line, in order.
func report(t *testing.T, broken []string) {
	t.Helper()
	sort.Strings(broken)
	for _, line := range broken {
		t.Error(line)
	}
}
