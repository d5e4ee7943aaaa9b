package billing

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Limits of a page.
const (
	defaultPage = 50
	maxPage     = 500
)

// Page asks for a part of a list. Lists are newest first, and stay consistent
// while rows are added: a cursor names a row, not a count.
type Page struct {
	Limit  int    // rows; 0 means 50, at most 500
	Cursor string // where the part before ended; empty for the first
}

// limit returns the number of rows to return.
func (p Page) limit() int {
	if p.Limit <= 0 {
		return defaultPage
	}
	return min(p.Limit, maxPage)
}

// after returns the position in p's cursor, "" for the first page. kind tells
// the lists apart, so that a cursor of one is not taken by another.
func (p Page) after(kind string) (string, error) {
	if p.Cursor == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil {
		return "", ErrCursor
	}
	position, ok := strings.CutPrefix(string(b), kind+":")
	if !ok || position == "" {
		return "", ErrCursor
	}
	return position, nil
}

// nextCursor returns the cursor that goes on after position.
func nextCursor(kind, position string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + position))
}

// filter gathers the conditions of a list, numbering their placeholders.
type filter struct {
	conds []string
	args  []any
}

// add adds a condition in which $? stands for arg.
func (f *filter) add(cond string, arg any) {
	f.args = append(f.args, arg)
	f.conds = append(f.conds, strings.ReplaceAll(cond, "$?", fmt.Sprintf("$%d", len(f.args))))
}

// addIf adds the condition unless arg is empty.
func (f *filter) addIf(cond, arg string) {
	if arg != "" {
		f.add(cond, arg)
	}
}

// where returns the WHERE clause, or "" without conditions.
func (f *filter) where() string {
	if len(f.conds) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(f.conds, " AND ")
}
