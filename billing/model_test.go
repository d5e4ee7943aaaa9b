package billing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/usage"
)

// TestModel drives a Service with random operations, a quota store that fails
// and restarts in between, and compares it after each with a model of a few
// maps: conservation of money, no balance below zero, idempotency, one set of
// lots per order. In the end all lots must have arrived, each version once.
func TestModel(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		shop := newShop(t, f)
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			m := &model{
				f: f, shop: shop, t: t, prefix: fmt.Sprintf("r%d-", round),
				balance: map[string]money.Amount{}, asked: map[string]PurchaseInput{}, orders: map[string]string{},
				subs: map[string]*modelSub{}, bought: map[string]int64{}, lots: map[string]lot.Grant{}, reversed: map[string]bool{},
			}
			f.store.fail(nil, nil)
			rt.Repeat(map[string]func(*rapid.T){
				"top up":    m.topUp,
				"buy":       m.buy,
				"buy again": m.buyAgain,
				"reverse":   m.reverse,
				"void":      m.void,
				"add units": m.addUnits,
				"state":     m.state,
				"store":     m.store,
				"restart":   func(*rapid.T) { f.restart(t) },
				"deliver":   m.deliver,
				"regrant":   m.regrant,
				"":          m.check,
			})
			m.end(rt)
		})
		f.wantSound(t)
	})
}

// newShop makes the specs of the model: every mode, a free and limited one, and
// two that stack.
func newShop(t *testing.T, f *fixture) []Spec {
	free := perCall()
	free.Price, free.PurchaseLimit = 0, 4
	pack := onDemand()
	pack.Mode, pack.Price, pack.Quotas = directory.ModeOnDemandPackage, money.MustParse("0.123456"), []Quota{{usage.Token, 7}}
	var shop []Spec
	for _, in := range []SpecInput{perCall(), free, tokens(), onDemand(), pack} {
		shop = append(shop, f.spec(t, in))
	}
	return shop
}

type modelSub struct {
	id    string
	state directory.SubscriptionState
}

// model is what the books must show for the accounts of one round.
type model struct {
	f      *fixture
	shop   []Spec
	t      testing.TB
	prefix string // of this round's accounts

	balance  map[string]money.Amount  // by account
	asked    map[string]PurchaseInput // by key, of purchases that succeeded
	orders   map[string]string        // order id by key
	subs     map[string]*modelSub     // open and frozen, by what makes them one
	bought   map[string]int64         // by account and series
	lots     map[string]lot.Grant     // newest version by id
	topUps   []Entry
	owners   []string // account of each top-up
	reversed map[string]bool
}

var ctx = context.Background() // rapid's actions have none of their own

func (m *model) account(t *rapid.T) string {
	return m.prefix + rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "account")
}

func (m *model) topUp(t *rapid.T) {
	account := m.account(t)
	amount := money.Amount(rapid.Int64Range(1, int64(20*money.Yuan)).Draw(t, "amount"))
	in := TopUpInput{Account: account, Amount: amount, IdempotencyKey: key()}
	e, err := m.f.TopUp(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.f.TopUp(ctx, in); err != nil || again != e {
		t.Fatalf("repeated: %+v, %v, want %+v", again, err, e)
	}
	m.balance[account] += amount
	m.topUps, m.owners = append(m.topUps, e), append(m.owners, account)
}

func (m *model) reverse(t *rapid.T) {
	if len(m.topUps) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.topUps)-1).Draw(t, "which")
	e, account := m.topUps[i], m.owners[i]
	_, err := m.f.Reverse(ctx, ReverseInput{Transaction: e.Transaction, Reason: "r"})
	switch {
	case m.balance[account] < e.Amount && !m.reversed[e.Transaction]:
		mustBe(t, err, ErrInsufficientBalance)
	case m.reversed[e.Transaction]:
		mustBe(t, err, ErrNotReversible)
	default:
		mustBe(t, err, nil)
		m.reversed[e.Transaction] = true
		m.balance[account] -= e.Amount
	}
}

func (m *model) buy(t *rapid.T) {
	in := PurchaseInput{
		Account: m.account(t), Spec: rapid.SampledFrom(m.shop).Draw(t, "spec").ID,
		Quantity: rapid.Int64Range(1, 3).Draw(t, "quantity"), IdempotencyKey: key(),
	}
	m.purchase(t, in)
}

// buyAgain repeats an earlier key, with the same input or another.
func (m *model) buyAgain(t *rapid.T) {
	if len(m.asked) == 0 {
		return
	}
	key := rapid.SampledFrom(slices.Sorted(maps.Keys(m.asked))).Draw(t, "key")
	in := m.asked[key]
	if rapid.Bool().Draw(t, "changed") {
		in.Quantity++
		_, err := m.f.Purchase(ctx, in)
		mustBe(t, err, ErrIdempotencyConflict)
		return
	}
	o, err := m.f.Purchase(ctx, in)
	if err != nil || o.ID != m.orders[key] {
		t.Fatalf("order %s, %v, want %s again", o.ID, err, m.orders[key])
	}
}

// purchase buys and compares the outcome with what the model says it must be.
func (m *model) purchase(t *rapid.T, in PurchaseInput) {
	spec := m.shop[slices.IndexFunc(m.shop, func(s Spec) bool { return s.ID == in.Spec })]
	subKey := in.Account + "/" + spec.Product + "/" + family(spec.Mode) + "/" + unitKey(spec.Units())
	sub := m.subs[subKey]
	amount, err := orderAmount(spec.Price, in.Quantity)
	if err != nil {
		t.Fatal(err)
	}
	limitKey := in.Account + "/" + spec.Series
	o, err := m.f.Purchase(ctx, in)
	switch {
	case spec.Mode == directory.ModeOnDemand && in.Quantity != 1:
		mustBe(t, err, ErrInvalid)
	case spec.PurchaseLimit > 0 && m.bought[limitKey]+in.Quantity > spec.PurchaseLimit:
		mustBe(t, err, ErrPurchaseRestricted)
	case sub != nil && sub.state == directory.SubscriptionFrozen:
		mustBe(t, err, ErrSubscriptionFrozen)
	case sub != nil && spec.Mode == directory.ModeOnDemand:
		mustBe(t, err, ErrOnDemandOpen)
	case sub == nil && spec.Mode == directory.ModeOnDemandPackage:
		mustBe(t, err, ErrOnDemandNotOpen)
	case amount > m.balance[in.Account]:
		mustBe(t, err, ErrInsufficientBalance)
	default:
		mustBe(t, err, nil)
		if sub == nil {
			m.subs[subKey] = &modelSub{id: o.Subscription, state: directory.SubscriptionActive}
		} else if sub.id != o.Subscription {
			t.Fatalf("bought into %s, want it to stack in %s (PKG-9)", o.Subscription, sub.id)
		}
		m.balance[in.Account] -= amount
		m.bought[limitKey] += in.Quantity
		m.asked[in.IdempotencyKey], m.orders[in.IdempotencyKey] = in, o.ID
		lots := m.f.orderLots(m.t, o.ID)
		if o.Amount != amount || int64(len(lots)) != in.Quantity*int64(len(spec.Quotas)) {
			t.Fatalf("order of %s with %d lots: %+v", o.Amount, len(lots), in)
		}
		for _, l := range lots {
			m.lots[l.ID] = l.Grant
		}
	}
}

// lot picks a lot, if there are any.
func (m *model) lot(t *rapid.T) (lot.Grant, bool) {
	if len(m.lots) == 0 {
		return lot.Grant{}, false
	}
	return m.lots[rapid.SampledFrom(slices.Sorted(maps.Keys(m.lots))).Draw(t, "lot")], true
}

func (m *model) void(t *rapid.T) {
	g, ok := m.lot(t)
	if !ok {
		return
	}
	_, err := m.f.VoidLot(ctx, LotChange{Lot: g.ID, Reason: "r"})
	mustBe(t, err, nil)
	if !g.Void {
		g.Void = true
		g.Version++
	}
	m.lots[g.ID] = g
}

func (m *model) addUnits(t *rapid.T) {
	g, ok := m.lot(t)
	if !ok {
		return
	}
	in := LotChange{Lot: g.ID, Add: rapid.Int64Range(1, 100).Draw(t, "add"), Reason: "r", IdempotencyKey: key()}
	_, err := m.f.AddUnits(ctx, in)
	switch {
	case g.Void:
		mustBe(t, err, ErrLotVoid)
	case g.Amount+in.Add > lot.MaxAmount:
		mustBe(t, err, ErrInvalid)
	default:
		mustBe(t, err, nil)
		_, err = m.f.AddUnits(ctx, in) // repeated
		mustBe(t, err, nil)
		g.Amount += in.Add
		g.Version++
	}
	m.lots[g.ID] = g
}

func (m *model) state(t *rapid.T) {
	if len(m.subs) == 0 {
		return
	}
	subKey := rapid.SampledFrom(slices.Sorted(maps.Keys(m.subs))).Draw(t, "subscription")
	sub := m.subs[subKey]
	in := SubscriptionChange{ID: sub.id, Reason: "r"}
	var err error
	switch rapid.IntRange(0, 4).Draw(t, "to") {
	case 0, 1:
		_, err = m.f.Freeze(ctx, in)
		sub.state = directory.SubscriptionFrozen
	case 2, 3:
		_, err = m.f.Unfreeze(ctx, in)
		sub.state = directory.SubscriptionActive
	default:
		_, err = m.f.Close(ctx, in)
		delete(m.subs, subKey)
		for id, g := range m.lots {
			if g.Subscription == sub.id && !g.Void {
				g.Void = true
				g.Version++
				m.lots[id] = g
			}
		}
	}
	mustBe(t, err, nil)
}

// store has the quota store fail before it applies, or lose its answers, or
// work again.
func (m *model) store(t *rapid.T) {
	switch rapid.IntRange(0, 2).Draw(t, "store") {
	case 0:
		m.f.store.fail(errStoreDown, nil)
	case 1:
		m.f.store.fail(nil, errors.New("answer lost"))
	default:
		m.f.store.fail(nil, nil)
	}
}

func (m *model) deliver(t *rapid.T) {
	m.f.clock.advance(deliverMost)
	_, err := m.f.DeliverDue(ctx)
	mustBe(t, err, nil)
}

// regrant empties the store and fills it again.
func (m *model) regrant(t *rapid.T) {
	m.f.store.fail(nil, nil)
	m.f.store.empty()
	_, err := m.f.Regrant(ctx, func(ctx context.Context, _ string, lots []Lot) error {
		for _, l := range lots {
			if err := m.f.store.ApplyGrant(ctx, l.Grant); err != nil {
				return err
			}
		}
		return nil
	})
	mustBe(t, err, nil)
}

// check compares the balances with the model's after every step.
func (m *model) check(t *rapid.T) {
	for account, want := range m.balance {
		b, err := m.f.Balance(ctx, account)
		if err != nil || b.Available != want || b.Available < 0 {
			t.Fatalf("balance of %s: %s, %v, want %s", account, b.Available, err, want)
		}
	}
}

// end delivers what is left and compares the store with the model.
func (m *model) end(t *rapid.T) {
	m.f.store.fail(nil, nil)
	for deadline := time.Now().Add(time.Minute); ; {
		m.f.clock.advance(deliverMost)
		if n, err := m.f.DeliverDue(ctx); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("deliveries never end")
		}
	}
	for id, want := range m.lots {
		if got, ok := m.f.store.has(id); !ok || got != want {
			t.Errorf("lot %s in the store: %+v, want %+v", id, got, want)
		}
	}
	for _, id := range m.orders {
		if o, err := m.f.Order(ctx, id); err != nil || o.State != OrderCompleted {
			t.Errorf("order %s is %s, %v", id, o.State, err)
		}
	}
	m.check(t)
	v, err := m.f.Verify(ctx)
	if err != nil || len(v.Faults) > 0 {
		t.Fatalf("%v, %v", v.Faults, err)
	}
}

func mustBe(t *rapid.T, err, want error) {
	t.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}
