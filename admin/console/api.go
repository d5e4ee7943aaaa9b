package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"tollgate/admin"
)

// Problem is an error of the API as pages show it.
type Problem struct {
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Title     string `json:"title"`
	Detail    string `json:"detail"`
	RequestID string `json:"request_id"`
	Errors    []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
}

// Error returns the code and the detail.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// problemOf turns any error of a page into what can be shown.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var invalid *admin.InvalidError
	if errors.As(err, &invalid) {
		p = &Problem{Status: 422, Code: "INVALID"}
		for _, f := range invalid.Faults {
			p.Errors = append(p.Errors, struct {
				Location string `json:"location"`
				Message  string `json:"message"`
			}(f))
		}
		return p
	}
	for _, known := range []struct {
		err    error
		status int
		code   string
	}{
		{admin.ErrSignIn, 401, "SIGN_IN"},
		{admin.ErrTooManyTries, 429, "TOO_MANY_TRIES"},
		{admin.ErrNotFound, 404, "NOT_FOUND"},
		{admin.ErrNameTaken, 409, "NAME_TAKEN"},
	} {
		if errors.Is(err, known.err) {
			return &Problem{Status: known.status, Code: known.code}
		}
	}
	return &Problem{Status: 500, Code: "INTERNAL"}
}

// call runs an operation as the user and reads its answer into out, which may
// be nil.
func (v *view) call(method, target string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("console: %w", err)
		}
	}
	header := http.Header{}
	if key := v.r.PostFormValue("once"); key != "" && method == http.MethodPost {
		header.Set("Idempotency-Key", key)
	}
	a := v.c.admin.Call(v.ctx(), v.actor, method, target, header, body)
	if a.Status >= 300 {
		p := &Problem{Status: a.Status, Code: "INTERNAL"}
		_ = json.Unmarshal(a.Body, p)
		return p
	}
	if out == nil || len(a.Body) == 0 {
		return nil
	}
	if err := json.Unmarshal(a.Body, out); err != nil {
		return fmt.Errorf("console: read the answer of %s %s: %w", method, target, err)
	}
	return nil
}

func (v *view) get(target string, out any) error { return v.call(http.MethodGet, target, nil, out) }

// maybe is get for a part of a page that somebody may not be allowed to see, or
// that is away: the page then says so and shows the rest.
func (v *view) maybe(target string, out any) (bool, error) {
	err := v.get(target, out)
	var p *Problem
	if errors.As(err, &p) && (p.Status == 403 || p.Status == 503) {
		return false, nil
	}
	return err == nil, err
}

// list is a part of a list of the API.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

// at writes a path with ids from outside.
func at(format string, ids ...string) string {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = url.PathEscape(id)
	}
	return fmt.Sprintf(format, args...)
}
