package sqldb

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"
)

// Ms returns t as it is stored: Unix milliseconds, 0 for the zero Time.
func Ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is the inverse of Ms, in UTC.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Instant scans a stored instant into a time.Time: rows.Scan(sqldb.Instant{&t}).
type Instant struct{ Dst *time.Time }

// Scan implements sql.Scanner.
func (i Instant) Scan(src any) error {
	ms, ok := src.(int64)
	if !ok {
		return fmt.Errorf("sqldb: an instant is stored as BIGINT, not as %T", src)
	}
	*i.Dst = Time(ms)
	return nil
}

// JSONValue stores V as JSON text and reads it back.
type JSONValue struct{ V any }

// JSON wraps v, a value to store or a pointer to scan into.
func JSON(v any) JSONValue { return JSONValue{v} }

// Value implements driver.Valuer.
func (j JSONValue) Value() (driver.Value, error) {
	b, err := json.Marshal(j.V)
	if err != nil {
		return nil, fmt.Errorf("sqldb: store as JSON: %w", err)
	}
	return string(b), nil
}

// Scan implements sql.Scanner. V must be a pointer.
func (j JSONValue) Scan(src any) error {
	var b []byte
	switch s := src.(type) {
	case string:
		b = []byte(s)
	case []byte:
		b = s
	default:
		return fmt.Errorf("sqldb: JSON is stored as TEXT, not as %T", src)
	}
	if err := json.Unmarshal(b, j.V); err != nil {
		return fmt.Errorf("sqldb: read stored JSON: %w", err)
	}
	return nil
}
