package redisstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/ledger"
)

// state is a subscription as it lies in Redis: one map per key, in the order of
// Store.keys.
type state [7]map[string]string

const (
	hashLots = iota
	hashBuckets
	hashCounters
	hashNodes
	hashMeta
	hashOutbox
	hashGrants
)

// dump reads a subscription at one instant.
func (s *Store) dump(ctx context.Context, id string) (state, int64, error) {
	var st state
	v, err := s.run(ctx, dumpScript, id, s.clock())
	if err != nil {
		return st, 0, err
	}
	if len(v) != len(st)+1 {
		return st, 0, fmt.Errorf("quota: redis: subscription %s: answer of %d parts", id, len(v))
	}
	now, err := strconv.ParseInt(fmt.Sprint(v[0]), 10, 64)
	if err != nil {
		return st, 0, fmt.Errorf("quota: redis: subscription %s: %w", id, err)
	}
	for i := range st {
		st[i] = map[string]string{}
		pairs, _ := v[i+1].([]any)
		for j := 0; j+1 < len(pairs); j += 2 {
			st[i][fmt.Sprint(pairs[j])] = fmt.Sprint(pairs[j+1])
		}
	}
	return st, now, nil
}

// account reads a subscription into the ledger's form.
func (s *Store) account(ctx context.Context, id string) (*ledger.Account, int64, error) {
	st, now, err := s.dump(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	a, err := st.decode(id)
	if err != nil {
		return nil, 0, fmt.Errorf("quota: redis: subscription %s: %w", id, err)
	}
	return a, now, nil
}

// decode turns the hashes into an account.
func (st *state) decode(id string) (*ledger.Account, error) {
	a := ledger.New(id)
	for key, text := range st[hashGrants] {
		l := &ledger.Lot{}
		if err := json.Unmarshal([]byte(text), &l.Grant); err != nil {
			return nil, fmt.Errorf("grant %s: %w", key, err)
		}
		if parts := strings.SplitN(st[hashLots][key], ":", 8); len(parts) == 8 {
			l.FoldedTo, _ = strconv.ParseInt(parts[6], 10, 64)
		}
		if n, err := numbers(st[hashMeta]["p|"+key], 3); err == nil {
			l.FoldedPeriods, l.FoldedGranted, l.FoldedUsed = n[0], n[1], n[2]
		}
		a.Lots[key] = l
	}
	for key, text := range st[hashBuckets] {
		n, err := numbers(text, 4)
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w", key, err)
		}
		a.Buckets[key] = &ledger.Bucket{Cap: n[0], Used: n[1], Out: n[2], Min: n[3]}
	}
	for key, text := range st[hashCounters] {
		n, err := numbers(text, 3)
		if err != nil {
			return nil, fmt.Errorf("counter %s: %w", key, err)
		}
		a.Counters[key] = &ledger.Counter{Granted: n[0], Used: n[1], Returned: n[2]}
	}
	for key, text := range st[hashNodes] {
		i := strings.LastIndexByte(text, ':')
		n, err := numbers(text[:max(i, 0)], 3)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", key, err)
		}
		over, err := parseOverrun(text[i+1:])
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", key, err)
		}
		a.Nodes[key] = &ledger.Node{Deadline: n[0], Seen: n[1], State: int(n[2]), Overrun: over}
	}
	if err := st.decodeMeta(a); err != nil {
		return nil, err
	}
	var err error
	a.Outbox, err = parseOutbox(id, st[hashOutbox])
	return a, err
}

func (st *state) decodeMeta(a *ledger.Account) error {
	for key, text := range st[hashMeta] {
		kind, rest, _ := strings.Cut(key, "|")
		n, _ := strconv.ParseInt(text, 10, 64)
		switch kind {
		case "clock":
			a.Clock = n
		case "learn":
			a.Learn = n
		case "recall":
			a.Recall = n
		case "run":
			a.Run = text
		case "f":
			a.Folded[rest] = uint64(n)
		case "o":
			u, _ := strconv.Atoi(rest)
			a.Overrun[usage.Unit(u)] = n
		case "w":
			if err := st.decodeWatch(a, rest, text); err != nil {
				return err
			}
		}
	}
	return nil
}

func (st *state) decodeWatch(a *ledger.Account, unit, text string) error {
	version, levels, _ := strings.Cut(text, ":")
	u, err := strconv.Atoi(unit)
	if err != nil {
		return fmt.Errorf("thresholds of unit %q", unit)
	}
	w := &ledger.Watch{Arms: map[string]*ledger.Arm{}}
	w.Version, _ = strconv.ParseInt(version, 10, 64)
	for name := range strings.SplitSeq(levels, ",") {
		if name == "" {
			continue
		}
		t, err := quota.ParseThreshold(name)
		if err != nil {
			return err
		}
		w.Levels = append(w.Levels, t)
	}
	prefix := "a|" + unit + "|"
	for key, text := range st[hashMeta] {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			n, err := numbers(text, 2)
			if err != nil {
				return fmt.Errorf("threshold %s: %w", key, err)
			}
			w.Arms[name] = &ledger.Arm{N: n[0], Fired: n[1] == 1}
		}
	}
	a.Watches[usage.Unit(u).String()] = w
	return nil
}

// numbers reads n numbers separated by colons.
func numbers(text string, n int) ([]int64, error) {
	parts := strings.Split(text, ":")
	if len(parts) != n {
		return nil, fmt.Errorf("%q: want %d numbers", text, n)
	}
	out := make([]int64, n)
	for i, p := range parts {
		var err error
		if out[i], err = strconv.ParseInt(p, 10, 64); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// parseOutbox reads the crossings of one subscription, oldest first.
func parseOutbox(id string, box map[string]string) ([]quota.Crossing, error) {
	var out []quota.Crossing
	for key, text := range box {
		parts := strings.Split(text, "|")
		if len(parts) != 6 {
			return nil, fmt.Errorf("quota: redis: crossing %s: %q", key, text)
		}
		t, err := quota.ParseThreshold(parts[1])
		if err != nil {
			return nil, err
		}
		n, err := numbers(strings.Join([]string{parts[0], parts[2], parts[3], parts[4], parts[5]}, ":"), 5)
		if err != nil {
			return nil, fmt.Errorf("quota: redis: crossing %s: %w", key, err)
		}
		out = append(out, quota.Crossing{
			ID: key, Subscription: id, Unit: usage.Unit(n[0]), Threshold: t, Arm: n[1],
			Remaining: n[2], Total: n[3], At: time.UnixMilli(n[4]).UTC(),
		})
	}
	slices.SortFunc(out, func(x, y quota.Crossing) int {
		if c := x.At.Compare(y.At); c != 0 {
			return c
		}
		return strings.Compare(x.ID, y.ID)
	})
	return out, nil
}

// encode turns an account into the hashes, but for the bounds and grants, which
// st keeps.
func (st *state) encode(a *ledger.Account) state {
	var out state
	for i := range out {
		out[i] = map[string]string{}
	}
	out[hashGrants], out[hashOutbox] = st[hashGrants], st[hashOutbox]
	for key, l := range a.Lots {
		parts := strings.SplitN(st[hashLots][key], ":", 8)
		out[hashLots][key] = packLot(&l.Grant) + ":" + strconv.FormatInt(l.FoldedTo, 10) + ":" + parts[len(parts)-1]
	}
	for key, b := range a.Buckets {
		out[hashBuckets][key] = fmt.Sprintf("%d:%d:%d:%d", b.Cap, b.Used, b.Out, b.Min)
	}
	for key, c := range a.Counters {
		out[hashCounters][key] = fmt.Sprintf("%d:%d:%d", c.Granted, c.Used, c.Returned)
	}
	for key, n := range a.Nodes {
		out[hashNodes][key] = fmt.Sprintf("%d:%d:%d:%s", n.Deadline, n.Seen, n.State, packOverrun(&n.Overrun))
	}
	for key, text := range st[hashMeta] {
		switch kind, _, _ := strings.Cut(key, "|"); kind {
		case "f", "o", "p":
		default:
			out[hashMeta][key] = text
		}
	}
	for node, boot := range a.Folded {
		out[hashMeta]["f|"+node] = strconv.FormatUint(boot, 10)
	}
	for u, n := range a.Overrun {
		out[hashMeta]["o|"+strconv.Itoa(int(u))] = strconv.FormatInt(n, 10)
	}
	for key, l := range a.Lots {
		if l.FoldedPeriods > 0 {
			out[hashMeta]["p|"+key] = fmt.Sprintf("%d:%d:%d", l.FoldedPeriods, l.FoldedGranted, l.FoldedUsed)
		}
	}
	return out
}

// fold folds what is older than retention, if there is anything. The step is
// computed here and written only if the subscription did not change meanwhile;
// otherwise the next round does it.
func (s *Store) fold(ctx context.Context, id string, retention time.Duration) error {
	st, now, err := s.dump(ctx, id)
	if err != nil {
		return err
	}
	a, err := st.decode(id)
	if err != nil {
		return fmt.Errorf("quota: redis: subscription %s: %w", id, err)
	}
	a.Fold(max(now, a.Clock), retention.Milliseconds())
	after := st.encode(a)
	args := []any{s.clock(), st[hashMeta]["ver"]}
	for i := range st {
		for key, text := range after[i] {
			if st[i][key] != text {
				args = append(args, i+1, key, "=", text)
			}
		}
		for key := range st[i] {
			if _, ok := after[i][key]; !ok {
				args = append(args, i+1, key, "-", "")
			}
		}
	}
	if len(args) == 2 {
		return nil
	}
	_, err = s.run(ctx, foldScript, id, args...)
	return err
}

// Read implements quota.Reader.
func (s *Store) Read(ctx context.Context, id string) (lot.Balance, error) {
	a, now, err := s.account(ctx, id)
	if err != nil {
		return lot.Balance{}, err
	}
	return a.Balance(now), nil
}

// Audit implements quota.Reader.
func (s *Store) Audit(ctx context.Context, id string) ([]quota.Difference, error) {
	a, _, err := s.account(ctx, id)
	if err != nil {
		return nil, err
	}
	return a.Audit(), nil
}

// Report implements quota.Reader.
func (s *Store) Report(ctx context.Context, id string) ([]quota.Reported, error) {
	a, _, err := s.account(ctx, id)
	if err != nil {
		return nil, err
	}
	return a.Report(), nil
}
