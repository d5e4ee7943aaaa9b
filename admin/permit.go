package admin

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Effect is what a statement of a policy does.
type Effect string

// The effects.
const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
)

// Statement is one line of a sub-user's policy: it allows or denies actions.
type Statement struct {
	Effect  Effect   `json:"effect" enum:"allow,deny"`
	Actions []string `json:"actions" minItems:"1" maxItems:"64" doc:"marketplace:RESOURCE:VERB, such as marketplace:order:create; * stands for any resource or verb. Each operation's description names its action."`
}

// maxStatements bounds a sub-user's policy.
const maxStatements = 32

// action is the name of an operation in policies (IAM-8): the operation
// create-api-key is marketplace:api-key:create.
func action(operation string) string {
	verb, resource, ok := strings.Cut(operation, "-")
	if !ok {
		verb, resource = operation, operation
	}
	if verb == "list" {
		resource = strings.TrimSuffix(resource, "s")
	}
	if operation == "top-up" {
		verb, resource = "create", "top-up"
	}
	return "marketplace:" + resource + ":" + verb
}

// builtIn is what a sub-user may do of itself (IAM-2): look at the catalogue,
// buy, and see orders and what was bought. Keys, secrets, money and alerts are
// not in it (IAM-9).
var builtIn = []string{
	"marketplace:me:get",
	"marketplace:product:list", "marketplace:product:get", "marketplace:spec:list", "marketplace:spec:get",
	"marketplace:order:create", "marketplace:order:list", "marketplace:order:get",
	"marketplace:subscription:list", "marketplace:subscription:get", "marketplace:quota:get",
}

// ownersOnly are resources that no policy opens: with them a sub-user could
// give itself everything else.
var ownersOnly = []string{"user", "user-session", "token"}

// permitted decides whether a sub-user with these statements may do an action
// (IAM-7): an explicit deny wins, then an explicit allow, then the built-in
// default, and everything else is denied.
func permitted(statements []Statement, action string) bool {
	if slices.Contains(ownersOnly, strings.Split(action, ":")[1]) {
		return false
	}
	allowed := slices.Contains(builtIn, action)
	for _, st := range statements {
		if !slices.ContainsFunc(st.Actions, func(p string) bool { return matchAction(p, action) }) {
			continue
		}
		if st.Effect != Allow {
			return false
		}
		allowed = true
	}
	return allowed
}

// matchAction compares part by part; * is any part.
func matchAction(pattern, action string) bool {
	p, a := strings.Split(pattern, ":"), strings.Split(action, ":")
	return len(p) == 3 && len(a) == 3 && p[0] == a[0] && (p[1] == "*" || p[1] == a[1]) && (p[2] == "*" || p[2] == a[2])
}

// checkStatements adds a fault for each statement that could never take effect:
// a mistyped deny would deny nothing.
func (s *Server) checkStatements(f *faults, list []Statement) {
	f.check(len(list) <= maxStatements, "body.policies", fmt.Sprintf("must hold at most %d statements", maxStatements))
	for i, st := range list {
		at := "body.policies[" + strconv.Itoa(i) + "]"
		f.check(st.Effect == Allow || st.Effect == Deny, at+".effect", "must be allow or deny")
		for j, pattern := range st.Actions {
			known := slices.ContainsFunc(s.routes, func(r route) bool { return matchAction(pattern, action(r.id)) })
			f.check(known, at+".actions["+strconv.Itoa(j)+"]", "names no operation: write marketplace:RESOURCE:VERB as the operations' descriptions in /api/v1/openapi.json do, with * for any")
		}
	}
}
