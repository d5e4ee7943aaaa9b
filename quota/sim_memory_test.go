package quota_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/lot"
	"tollgate/quota"
	"tollgate/quota/ledger"
	"tollgate/quota/quotatest"
)

// memory is the ledger as a store.
type memory struct {
	quota.Store // only for methods the simulator does not use
	clock       *quotatest.Clock
	a, kept     *ledger.Account
	run         int
}

func newMemory(clock *quotatest.Clock, sub string) *memory {
	m := &memory{clock: clock, a: ledger.New(sub)}
	m.Keep()
	return m
}

func (m *memory) env() ledger.Env {
	return ledger.Env{Now: m.clock.Now().UnixMilli(), Run: fmt.Sprint("run", m.run)}
}
func (m *memory) Keep() { m.kept = m.a.Clone() }
func (m *memory) Rollback(another bool) {
	m.a = m.kept.Clone()
	if another {
		m.run++
	}
}
func (m *memory) Time() time.Time { return time.UnixMilli(m.a.Clock) }

func (m *memory) Sync(_ context.Context, req *quota.SyncRequest) (*quota.SyncReply, error) {
	r, _ := m.a.Sync(m.env(), req)
	return r, nil
}

func (m *memory) CloseIncarnation(_ context.Context, req *quota.CloseRequest) error {
	m.a.Close(m.env(), req)
	return nil
}

func (m *memory) ApplyGrant(_ context.Context, g lot.Grant) (bool, error) {
	return m.a.ApplyGrant(m.env(), g), nil
}

func (m *memory) SetThresholds(_ context.Context, t quota.Thresholds) (bool, error) {
	return m.a.SetThresholds(m.env(), t), nil
}

func (m *memory) Read(context.Context, string) (lot.Balance, error) {
	return m.a.Balance(m.env().Now), nil
}

func (m *memory) Audit(context.Context, string) ([]quota.Difference, error) { return m.a.Audit(), nil }

func (m *memory) Report(context.Context, string) ([]quota.Reported, error) { return m.a.Report(), nil }

func (m *memory) Tend(_ context.Context, req *quota.TendRequest) error {
	m.a.Tend(m.env(), req)
	return nil
}

func (m *memory) Crossings(context.Context, int) ([]quota.Crossing, error) {
	return slices.Clone(m.a.Outbox), nil
}
