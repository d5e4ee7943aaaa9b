package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const goodPassword = "correct horse battery"

// TestTOTP checks the codes of RFC 6238, appendix B, cut to six digits.
func TestTOTP(t *testing.T) {
	t.Parallel()
	key := []byte("12345678901234567890")
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := totpCode(key, at/totpStep); got != want {
			t.Errorf("code at %d = %s, want %s", at, got, want)
		}
	}
}

// TestPermitted is the matrix of IAM-7: explicit deny, explicit allow, built-in
// default, deny.
func TestPermitted(t *testing.T) {
	t.Parallel()
	allow := func(a ...string) Statement { return Statement{Allow, a} }
	deny := func(a ...string) Statement { return Statement{Deny, a} }
	const buy, keys, user = "marketplace:order:create", "marketplace:api-key:create", "marketplace:user:create"
	for _, c := range []struct {
		name                string
		policy              []Statement
		mayBuy, mayMakeKeys bool
	}{
		{"nothing said (IAM-2, IAM-9)", nil, true, false},
		{"denied (IAM-3)", []Statement{deny(buy)}, false, false},
		{"denied by any verb", []Statement{deny("marketplace:order:*")}, false, false},
		{"denied by everything", []Statement{deny("marketplace:*:*")}, false, false},
		{"allowed more", []Statement{allow("marketplace:api-key:*")}, true, true},
		{"deny after allow", []Statement{allow(buy, keys), deny(buy)}, false, true},
		{"deny before allow", []Statement{deny(buy), allow(buy, keys)}, false, true},
		{"all but keys", []Statement{allow("marketplace:*:*"), deny("marketplace:api-key:create")}, true, false},
		{"another deny", []Statement{deny("marketplace:order:cancel")}, true, false},
		{"a pattern of too few parts", []Statement{deny("marketplace:*"), deny("*")}, true, false},
		{"an unknown effect never allows", []Statement{{"permit", []string{buy, keys}}}, false, false},
	} {
		if got := permitted(c.policy, buy); got != c.mayBuy {
			t.Errorf("%s: may buy = %v", c.name, got)
		}
		if got := permitted(c.policy, keys); got != c.mayMakeKeys {
			t.Errorf("%s: may make keys = %v", c.name, got)
		}
		if permitted(append(c.policy, allow("marketplace:*:*"), allow(user)), user) {
			t.Errorf("%s: a sub-user may make users", c.name)
		}
	}
}

func (h *harness) user(in UserInput) User {
	h.t.Helper()
	if in.Password == "" {
		in.Password = goodPassword
	}
	u, err := h.CreateUser(h.t.Context(), in)
	h.ok(err)
	return u
}

// signIn opens a session and returns whose it is.
func (h *harness) signIn(name string) (Actor, Session) {
	h.t.Helper()
	_, secret, err := h.SignIn(h.t.Context(), SignInInput{Name: name, Password: goodPassword, Address: "192.0.2.1"})
	h.ok(err)
	a, _, v, err := h.Resume(h.t.Context(), secret, true)
	h.ok(err)
	return a, v
}

// TestSubUsersByEachRoute calls every operation that a buyer may, as sub-users
// of several policies, and compares with what the policy says of its action.
func TestSubUsersByEachRoute(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		owner := h.user(UserInput{Account: h.buyers[0].id, Name: "owner", Owner: true})
		if !owner.Owner || len(owner.Policies) != 0 {
			t.Fatalf("owner = %+v", owner)
		}
		seen := map[string]string{}
		for name, policy := range map[string][]Statement{
			"default": nil,
			"denied":  {{Deny, []string{"marketplace:*:*"}}},
			"keys":    {{Allow, []string{"marketplace:api-key:*"}}, {Deny, []string{"marketplace:order:create"}}},
		} {
			h.user(UserInput{Account: h.buyers[0].id, Name: name, Policies: policy})
			a, _ := h.signIn(name)
			for _, r := range h.routes {
				if other, ok := seen[action(r.id)]; ok && other != r.id {
					t.Errorf("%s and %s are one action", r.id, other)
				}
				seen[action(r.id)] = r.id
				if !slices.Contains(r.roles, RoleBuyer) {
					continue
				}
				path := strings.NewReplacer("{id}", "x", "{product_id}", "x", "{code_id}", "x", "{unit}", "call", "{request_id}", "x", "{key_id}", "x").Replace(r.path)
				var p Problem
				ans := h.Call(t.Context(), a, r.method, path, nil, nil)
				_ = json.Unmarshal(ans.Body, &p)
				if refused := p.Code == "DENIED"; refused == permitted(policy, action(r.id)) {
					t.Errorf("%s: %s = %d %s", name, r.id, ans.Status, p.Code)
				}
			}
		}
		// The owner may all of it; nobody of another account is reached.
		a, _ := h.signIn("owner")
		if got := h.Call(t.Context(), a, "GET", "/users", nil, nil); got.Status != 200 {
			t.Errorf("owner lists users: %d %s", got.Status, got.Body)
		}
		if got := h.Call(t.Context(), a, "GET", "/accounts/"+h.buyers[1].id+"/balance", nil, nil); got.Status != 404 {
			t.Errorf("another account's balance: %d", got.Status)
		}
		h.call(h.buyers[0].token, "POST", "/users", map[string]any{
			"name": "typo", "password": goodPassword,
			"policies": []any{map[string]any{"effect": "deny", "actions": []string{"marketplace:orders:create"}}},
		}).want(422, "INVALID")
	})
}

// TestSignInIsThrottled: tries are bounded also when they come at once, the
// right password does not help while a name is locked, names that do not exist
// look the same, and another address is not locked out.
func TestSignInIsThrottled(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		h.user(UserInput{Name: "root", Owner: true})
		try := func(name, password, from string) error {
			_, _, err := h.SignIn(t.Context(), SignInInput{Name: name, Password: password, Address: from})
			return err
		}
		for _, name := range []string{"root", "nobody"} {
			var wg sync.WaitGroup
			var mu sync.Mutex
			refused, locked := 0, 0
			for range 12 {
				wg.Go(func() {
					err := try(name, "wrong password", "192.0.2.9")
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, ErrSignIn):
						refused++
					case errors.Is(err, ErrTooManyTries):
						locked++
					default:
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			wg.Wait()
			if refused != 5 || locked != 7 {
				t.Errorf("%s: %d compared and %d locked out, want 5 and 7", name, refused, locked)
			}
		}
		if err := try("root", goodPassword, "192.0.2.9"); !errors.Is(err, ErrTooManyTries) {
			t.Errorf("locked out, right password: %v", err)
		}
		h.ok(try("Root ", goodPassword, "192.0.2.10"))
		h.clock.Advance(15 * time.Minute)
		h.ok(try("root", goodPassword, "192.0.2.9"))
		for range 40 { // those who get it right are never locked out
			h.ok(try("root", goodPassword, "192.0.2.9"))
		}
		if logs := h.logs.String(); strings.Contains(logs, goodPassword) || strings.Contains(logs, "wrong password") {
			t.Error("a password is in the log")
		}
	})
}

// TestSessionsEnd: by idleness, by age, by hand, by a new password, and with
// the user; what a page asks for by itself keeps none alive.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		ctx := t.Context()
		u := h.user(UserInput{Account: h.buyers[0].id, Name: "owner", Owner: true})
		open := func() (Session, string) {
			v, secret, err := h.SignIn(ctx, SignInInput{Name: "owner", Password: goodPassword, Address: "192.0.2.1"})
			h.ok(err)
			return v, secret
		}
		alive := func(secret string, touch bool) bool {
			_, _, _, err := h.Resume(ctx, secret, touch)
			if err != nil && !errors.Is(err, ErrUnauthenticated) {
				t.Fatal(err)
			}
			return err == nil
		}
		_, idle := open()
		h.clock.Advance(2*time.Hour - time.Second)
		if !alive(idle, false) {
			t.Error("ended before it was idle for two hours")
		}
		h.clock.Advance(time.Second)
		if alive(idle, false) {
			t.Error("a poll kept the session alive")
		}
		_, old := open()
		for range 23 {
			h.clock.Advance(time.Hour)
			if !alive(old, true) {
				t.Fatal("ended although it was used")
			}
		}
		h.clock.Advance(time.Hour)
		if alive(old, true) {
			t.Error("lives for more than a day")
		}
		first, a := open()
		second, b := open()
		if list, err := h.Sessions(ctx, u.ID); err != nil || len(list) != 2 {
			t.Fatalf("sessions = %v, %v", list, err)
		}
		if err := h.EndSession(ctx, "somebody else", first.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("ended another's session: %v", err)
		}
		h.ok(h.EndSession(ctx, u.ID, first.ID))
		if alive(a, true) || !alive(b, true) {
			t.Error("the wrong session ended")
		}
		_, c := open()
		if err := h.ChangePassword(ctx, second.ID, u.ID, "not the password", "another password", "192.0.2.1"); !errors.Is(err, ErrSignIn) {
			t.Errorf("changed with a wrong password: %v", err)
		}
		h.ok(h.ChangePassword(ctx, second.ID, u.ID, goodPassword, goodPassword+"!", "192.0.2.1"))
		if alive(c, true) || !alive(b, true) {
			t.Error("a new password must end the other sessions, and only those")
		}
		disabled := true
		_, err := h.UpdateUser(ctx, u.ID, UserPatch{Disabled: &disabled})
		h.ok(err)
		if alive(b, true) {
			t.Error("a disabled user is signed in")
		}
		if _, _, err := h.SignIn(ctx, SignInInput{Name: "owner", Password: goodPassword + "!"}); !errors.Is(err, ErrSignIn) {
			t.Errorf("a disabled user signs in: %v", err)
		}
	})
}

func TestSetupTOTPAndReveal(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		ctx := t.Context()
		first, made, err := h.SetupToken(ctx)
		h.ok(err)
		token, again, err := h.SetupToken(ctx)
		h.ok(err)
		if !made || !again || first == token {
			t.Fatal("no setup token was made")
		}
		for _, wrong := range []string{"", "x", first} {
			if _, err := h.Setup(ctx, "192.0.2.1", wrong, "root", goodPassword); !errors.Is(err, ErrSignIn) {
				t.Errorf("setup with %q: %v", wrong, err)
			}
		}
		u, err := h.Setup(ctx, "192.0.2.1", token, "root", goodPassword)
		h.ok(err)
		if _, err := h.Setup(ctx, "192.0.2.1", token, "root2", goodPassword); !errors.Is(err, ErrSignIn) {
			t.Errorf("setup again: %v", err)
		}
		if _, made, err := h.SetupToken(ctx); made || err != nil {
			t.Errorf("a setup token although there is an operator: %v", err)
		}
		if err := h.DeleteUser(ctx, u.ID); !errors.Is(err, ErrLastOperator) {
			t.Errorf("the last operator: %v", err)
		}
		h.call(h.operator, http.MethodGet, "/users/"+u.ID, nil).want(200)

		// One-time codes: asked for once proven, each taken once.
		secret, _ := h.OfferTOTP(u)
		key, _ := b32.DecodeString(secret)
		code := func() string { return totpCode(key, h.now().Unix()/totpStep) }
		if err := h.EnableTOTP(ctx, u.ID, secret, "000000"); !errors.Is(err, ErrSignIn) {
			t.Errorf("enabled with a wrong code: %v", err)
		}
		h.ok(h.EnableTOTP(ctx, u.ID, secret, code()))
		in := SignInInput{Name: "root", Password: goodPassword, Address: "192.0.2.2"}
		if _, _, err := h.SignIn(ctx, in); !errors.Is(err, ErrSignIn) {
			t.Errorf("without a code: %v", err)
		}
		in.Code = code()
		if _, _, err := h.SignIn(ctx, in); !errors.Is(err, ErrSignIn) {
			t.Errorf("the code that enabled it works again: %v", err)
		}
		h.clock.Advance(time.Minute)
		in.Code = code()
		_, _, err = h.SignIn(ctx, in)
		h.ok(err)
		if _, _, err := h.SignIn(ctx, in); !errors.Is(err, ErrSignIn) {
			t.Errorf("a code works twice: %v", err)
		}

		// A secret asks for a password entered within five minutes.
		g := h.apiProduct(0, "/reveal")
		h.buy(0, g.spec)
		app, err := h.MarketApplication(ctx, h.buyers[0].id)
		h.ok(err)
		owner := h.user(UserInput{Account: h.buyers[0].id, Name: "owner", Owner: true})
		a, v := h.signIn("owner")
		reveal := func(a Actor) int {
			return h.Call(ctx, a, "POST", "/applications/"+app.ID+"/secret/reveal", nil, nil).Status
		}
		if got := reveal(a); got != 200 {
			t.Errorf("reveal at once = %d", got)
		}
		h.clock.Advance(5 * time.Minute)
		if got := reveal(a); got != 403 {
			t.Errorf("reveal later = %d, want 403", got)
		}
		if err := h.Confirm(ctx, v.ID, owner.ID, "wrong", "192.0.2.1"); !errors.Is(err, ErrSignIn) {
			t.Errorf("confirmed: %v", err)
		}
		h.ok(h.Confirm(ctx, v.ID, owner.ID, goodPassword, "192.0.2.1"))
		a.Confirmed = h.now()
		if got := reveal(a); got != 200 {
			t.Errorf("reveal after the password = %d", got)
		}
	})
}
