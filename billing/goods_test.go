package billing

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
)

func TestSpecValidation(t *testing.T) {
	t.Parallel()
	change := func(base func() SpecInput, f func(*SpecInput)) SpecInput {
		s := base()
		f(&s)
		return s
	}
	for name, c := range map[string]struct {
		in   SpecInput
		want string // "" means valid
	}{
		"per call":                 {perCall(), ""},
		"input and output tokens":  {tokens(), ""},
		"free (PKG-8)":             {change(perCall, func(s *SpecInput) { s.Price = 0 }), ""},
		"resettable (PKG-6)":       {change(tokens, func(s *SpecInput) { s.Reset = lot.Hour }), ""},
		"no product":               {change(perCall, func(s *SpecInput) { s.Product = "" }), "product is empty"},
		"no seller":                {change(perCall, func(s *SpecInput) { s.Seller = "" }), "seller is empty"},
		"no name":                  {change(perCall, func(s *SpecInput) { s.Name = "" }), `name ""`},
		"name with spaces at ends": {change(perCall, func(s *SpecInput) { s.Name = " x" }), "without spaces at the ends"},
		"price below zero":         {change(perCall, func(s *SpecInput) { s.Price = -1 }), "price -0.000001"},
		"price past reason":        {change(perCall, func(s *SpecInput) { s.Price = maxPrice + 1 }), "price 1000000000.000001"},
		"unknown reset":            {change(tokens, func(s *SpecInput) { s.Reset = "fortnight" }), `reset cycle "fortnight"`},
		"unknown zone":             {change(tokens, func(s *SpecInput) { s.Zone = "Mars/Olympus" }), `time zone "Mars/Olympus"`},
		"local zone":               {change(tokens, func(s *SpecInput) { s.Zone = "Local" }), "differs from machine to machine"},
		"negative limit":           {change(perCall, func(s *SpecInput) { s.PurchaseLimit = -1 }), "purchase limit -1"},
		"negative validity":        {change(perCall, func(s *SpecInput) { s.Validity = Validity{Months: -1} }), "validity of -1 months"},
		"validity twice":           {change(perCall, func(s *SpecInput) { s.Validity.Duration = time.Hour }), "give one of them"},
		"validity of microseconds": {change(perCall, func(s *SpecInput) { s.Validity = Validity{Duration: time.Microsecond} }), "whole milliseconds"},
		"no quota":                 {change(tokens, func(s *SpecInput) { s.Quotas = nil }), "quotas are empty"},
		"quota of nothing":         {change(perCall, func(s *SpecInput) { s.Quotas[0].Amount = 0 }), "quota of 0 call"},
		"quota past exact numbers": {change(perCall, func(s *SpecInput) { s.Quotas[0].Amount = lot.MaxAmount + 1 }), "quota of 9007199254740992 call"},
		"quota twice":              {change(tokens, func(s *SpecInput) { s.Quotas = append(s.Quotas, s.Quotas[0]) }), "quota of output_token is given twice"},
		"unknown unit":             {change(tokens, func(s *SpecInput) { s.Quotas[0].Unit = usage.NumUnits }), "unknown unit"},
		"tokens charged twice":     {change(tokens, func(s *SpecInput) { s.Quotas[0].Unit = usage.Token }), "the same tokens twice"},
		"unknown mode":             {change(perCall, func(s *SpecInput) { s.Mode = "barter" }), `mode "barter"`},
		"per call of tokens":       {change(tokens, func(s *SpecInput) { s.Mode = directory.ModePerCall }), "mode per_call counts calls only"},
		"on demand":                {onDemand(), ""},
		"on demand with a price":   {change(onDemand, func(s *SpecInput) { s.Price = 1 }), "opening it has no price"},
		"on demand with an end":    {change(onDemand, func(s *SpecInput) { s.Validity.Months = 1 }), "neither validity nor reset cycle"},
	} {
		err := c.in.Validate()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: the error does not say %q: %v", name, c.want, err)
		}
	}
	all := (&SpecInput{Price: -1}).Validate()
	for _, want := range []string{"product", "seller", "name", "price", "quotas", "mode"} {
		if !strings.Contains(all.Error(), want) {
			t.Errorf("of several faults, %s is not told: %v", want, all)
		}
	}
}

// onDemand opens the on-demand service of the chat product.
func onDemand() SpecInput {
	return SpecInput{
		Product: "chat", Seller: "mind", Name: "by use", Mode: directory.ModeOnDemand, Quotas: []Quota{{Unit: usage.Token}}, Actor: "seller",
	}
}

func TestSpecVersions(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		v1 := f.spec(t, tokens())
		if got, err := f.Spec(t.Context(), v1.ID); err != nil || cmp.Diff(v1, got) != "" {
			t.Fatalf("read back: %v, %s", err, cmp.Diff(v1, got))
		}
		f.topUp(t, "buyer", "100")
		order := f.buy(t, "buyer", v1, 1)

		dearer := tokens()
		dearer.Price *= 2
		dearer.Reset = lot.Day
		dearer.Zone = "Europe/Berlin"
		dearer.Validity = Validity{Duration: 36 * time.Hour}
		v2, err := f.ReviseSpec(t.Context(), v1.ID, dearer)
		if err != nil {
			t.Fatal(err)
		}
		if v2.ID == v1.ID || v2.Series != v1.ID || v2.Version != 2 || v2.State != SpecOnSale {
			t.Fatalf("second version: %+v", v2)
		}
		if got, err := f.Spec(t.Context(), v2.ID); err != nil || cmp.Diff(v2, got) != "" {
			t.Fatalf("read back: %v, %s", err, cmp.Diff(v2, got))
		}
		// What was bought stays what it was, and the old version is not sold.
		old, err := f.Spec(t.Context(), order.Spec)
		if err != nil || old.Price != tokens().Price || old.State != SpecSuperseded {
			t.Fatalf("the spec of the order: %+v, %v", old, err)
		}
		in := PurchaseInput{Account: "buyer", Spec: v1.ID, Quantity: 1, IdempotencyKey: key()}
		if _, err := f.Purchase(t.Context(), in); !errors.Is(err, ErrSpecOffline) {
			t.Fatalf("purchase of the old version: %v", err)
		}
		if _, err := f.ReviseSpec(t.Context(), v1.ID, dearer); !errors.Is(err, ErrSpecSuperseded) {
			t.Fatalf("second edit of the old version: %v", err)
		}
		if _, err := f.SetSpecState(t.Context(), v1.ID, SpecOnSale); !errors.Is(err, ErrSpecSuperseded) {
			t.Fatalf("old version put on sale: %v", err)
		}
		moved := dearer
		moved.Seller = "somebody else"
		if _, err := f.ReviseSpec(t.Context(), v2.ID, moved); !errors.Is(err, ErrInvalid) {
			t.Fatalf("another seller: %v", err)
		}
		// A withdrawn spec's next version stays withdrawn until it is put on sale.
		if _, err := f.SetSpecState(t.Context(), v2.ID, SpecWithdrawn); err != nil {
			t.Fatal(err)
		}
		v3, err := f.ReviseSpec(t.Context(), v2.ID, dearer)
		if err != nil || v3.State != SpecWithdrawn || v3.Version != 3 {
			t.Fatalf("third version: %+v, %v", v3, err)
		}
		in.Spec = v3.ID
		if _, err := f.Purchase(t.Context(), in); !errors.Is(err, ErrSpecOffline) {
			t.Fatalf("purchase of a withdrawn spec: %v", err)
		}
		if _, err := f.SetSpecState(t.Context(), v3.ID, SpecOnSale); err != nil {
			t.Fatal(err)
		}
		f.buy(t, "buyer", v3, 1)
		for _, missing := range []func() error{
			func() error { _, err := f.Spec(t.Context(), "no"); return err },
			func() error { _, err := f.ReviseSpec(t.Context(), "no", dearer); return err },
			func() error { _, err := f.SetSpecState(t.Context(), "no", SpecOnSale); return err },
		} {
			if err := missing(); !errors.Is(err, ErrSpecNotFound) {
				t.Errorf("a spec that is not there: %v", err)
			}
		}
		if _, err := f.SetSpecState(t.Context(), v3.ID, SpecSuperseded); !errors.Is(err, ErrInvalid) {
			t.Errorf("superseded by hand: %v", err)
		}
		f.wantSound(t)
	})
}

func TestPages(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		var want []string
		for range 7 {
			want = append([]string{f.spec(t, tokens()).ID}, want...)
		}
		f.spec(t, perCall())
		var got []string
		page := Page{Limit: 3}
		for {
			specs, next, err := f.Specs(t.Context(), SpecFilter{Product: "chat", State: SpecOnSale, Page: page})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range specs {
				got = append(got, s.ID)
			}
			if next == "" {
				break
			}
			page.Cursor = next
			f.spec(t, tokens()) // added meanwhile: it is not in this walk, and moves nothing
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		if specs, _, err := f.Specs(t.Context(), SpecFilter{Seller: "sky"}); err != nil || len(specs) != 1 {
			t.Fatalf("by seller: %d, %v", len(specs), err)
		}
		for _, bad := range []string{"!", "c3BlYw", nextCursor("order", want[0]), nextCursor("spec", "")} {
			if _, _, err := f.Specs(t.Context(), SpecFilter{Page: Page{Cursor: bad}}); !errors.Is(err, ErrCursor) {
				t.Errorf("cursor %q: %v", bad, err)
			}
		}
	})
}

func TestValidity(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, c := range []struct {
		v    Validity
		zone string
		from string
		want string
	}{
		{Validity{Duration: 90 * time.Minute}, "", "2026-11-21T10:00:00+08:00", "2026-11-21T11:30:00+08:00"},
		{Validity{Months: 1}, "", "2026-11-21T10:00:00+08:00", "2026-12-21T10:00:00+08:00"},
		{Validity{Months: 12}, "", "2026-11-21T10:00:00+08:00", "2027-11-21T10:00:00+08:00"},
		// The last day of a month that has no such day.
		{Validity{Months: 1}, "", "2027-01-31T23:59:59+08:00", "2027-02-28T23:59:59+08:00"},
		{Validity{Months: 1}, "", "2028-01-31T00:00:00+08:00", "2028-02-29T00:00:00+08:00"},
		{Validity{Months: 13}, "", "2027-01-30T08:00:00+08:00", "2028-02-29T08:00:00+08:00"},
		// The day is the one in the zone: 30 November 18:00 UTC is 1 December in Beijing (CONV-4).
		{Validity{Months: 3}, "", "2026-11-30T18:00:00Z", "2027-03-01T02:00:00+08:00"},
		{Validity{Months: 3}, "UTC", "2026-11-30T18:00:00Z", "2027-02-28T18:00:00Z"},
		// The wall clock is kept over the change to summer time; a time of day
		// that is left out gives the change itself, one that comes twice its first.
		{Validity{Months: 1}, "America/New_York", "2027-02-28T10:00:00-05:00", "2027-03-28T10:00:00-04:00"},
		{Validity{Months: 1}, "America/New_York", "2027-02-14T02:30:00-05:00", "2027-03-14T03:00:00-04:00"},
		{Validity{Months: 1}, "America/New_York", "2027-10-07T01:30:00-04:00", "2027-11-07T01:30:00-04:00"},
		{Validity{Months: 1}, "America/New_York", "2027-10-07T02:00:00-04:00", "2027-11-07T02:00:00-05:00"},
		{Validity{Months: 1}, "Australia/Lord_Howe", "2027-03-04T01:45:00+11:00", "2027-04-04T01:45:00+11:00"},
		{Validity{Months: 1}, "Australia/Lord_Howe", "2027-09-03T02:15:00+10:30", "2027-10-03T02:30:00+11:00"},
	} {
		got, err := c.v.Expires(at(c.from), c.zone)
		if err != nil || !got.Equal(at(c.want)) {
			t.Errorf("%+v from %s in %q: %s, %v, want %s", c.v, c.from, c.zone, got, err, c.want)
		}
	}
	if got, err := (Validity{}).Expires(at("2026-11-21T10:00:00Z"), ""); err != nil || !got.IsZero() {
		t.Errorf("no validity: %s, %v", got, err)
	}
}
