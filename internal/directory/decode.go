package directory

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// decode reads a snapshot row by row: the text of a large one is never in memory
// as a whole, and calls go on meanwhile. Rows of one account share its name.
func decode(r io.Reader) (*Snapshot, error) {
	d := decoder{Decoder: json.NewDecoder(r), names: make(map[string]string)}
	s := &Snapshot{}
	if err := d.delim('{'); err != nil {
		return nil, err
	}
	rest := make(map[string]json.RawMessage)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch name := t.(string); name { // a key always is one
		case "products":
			err = rows(&d, &s.Products, func(*Product) {})
		case "subscriptions":
			err = rows(&d, &s.Subscriptions, func(x *Subscription) { x.Account, x.Product = d.name(x.Account), d.name(x.Product) })
		case "applications":
			err = rows(&d, &s.Applications, func(x *Application) { x.Account = d.name(x.Account) })
		case "app_keys":
			err = rows(&d, &s.AppKeys, func(*AppKey) {})
		case "app_codes":
			err = rows(&d, &s.AppCodes, func(*AppCode) {})
		case "api_keys":
			err = rows(&d, &s.APIKeys, func(x *APIKey) { x.Account = d.name(x.Account) })
		default:
			var v json.RawMessage
			err = d.Decode(&v)
			rest[name] = v
		}
		if err != nil {
			return nil, err
		}
	}
	if err := d.delim('}'); err != nil {
		return nil, err
	}
	text, err := json.Marshal(rest)
	if err != nil {
		return nil, err
	}
	return s, json.Unmarshal(text, s)
}

type decoder struct {
	*json.Decoder
	pace  Pacer
	names map[string]string
}

var errForm = errors.New("it is not a snapshot")

func (d *decoder) delim(want json.Delim) error {
	t, err := d.Token()
	if err == nil && t != want {
		err = fmt.Errorf("%w: %v where %v belongs", errForm, t, want)
	}
	return err
}

// name returns the one copy of a name that is kept.
func (d *decoder) name(s string) string {
	if known, ok := d.names[s]; ok {
		return known
	}
	d.names[s] = s
	return s
}

// rows appends the rows of a list, which may be null.
func rows[T any](d *decoder, out *[]T, each func(*T)) error {
	switch t, err := d.Token(); {
	case err != nil:
		return err
	case t == nil:
		return nil
	case t != json.Delim('['):
		return fmt.Errorf("%w: %v where a list belongs", errForm, t)
	}
	for d.More() {
		var row T
		if err := d.Decode(&row); err != nil {
			return err
		}
		each(&row)
		*out = append(*out, row)
		d.pace.Step()
	}
	return d.delim(']')
}
