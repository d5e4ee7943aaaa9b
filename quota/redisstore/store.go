package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/lot"
	"tollgate/quota"
)

// Store is a quota store in Redis. It implements quota.Store and is safe for
// concurrent use.
type Store struct {
	client goredis.UniversalClient
	set    settings
	opt    Options
}

var _ quota.Store = (*Store)(nil)

// Close closes the connections.
func (s *Store) Close() error { return s.client.Close() }

// Client returns the connections, for health checks.
func (s *Store) Client() goredis.UniversalClient { return s.client }

// clock is the first argument of every step: empty, unless a test moves it.
func (s *Store) clock() string {
	if s.opt.Now == nil {
		return ""
	}
	return strconv.FormatInt(s.opt.Now().UnixMilli(), 10)
}

func (s *Store) runID() string {
	if s.opt.Run == nil {
		return ""
	}
	return s.opt.Run()
}

func (s *Store) subsKey() string { return s.set.prefix + "subs" }
func (s *Store) outKey() string  { return s.set.prefix + "out" }
func (s *Store) channel() string { return s.set.prefix + "recall" }

// Sync implements quota.Leaser.
func (s *Store) Sync(ctx context.Context, req *quota.SyncRequest) (*quota.SyncReply, error) {
	if err := req.Incarnation.Validate(); err != nil {
		return nil, err
	}
	args := make([]any, 0, 10+5*len(req.Counters)+4*len(req.Demands))
	args = append(args, s.clock(), s.runID(), req.Incarnation.String(), req.Now,
		req.TTL.Milliseconds(), req.Quarantine.Milliseconds(), req.Subscription,
		packOverrun(&req.Overrun), s.channel(), len(req.Counters))
	for _, c := range req.Counters {
		args = append(args, c.Lot, c.From, c.Granted, c.Used, c.Returned)
	}
	for _, d := range req.Demands {
		args = append(args, int(d.Unit), d.At, d.Floor, d.Target)
	}
	v, err := s.extending(ctx, req.Subscription, func() ([]any, error) {
		return s.runConfirmed(ctx, syncScript, req.Subscription, args...)
	})
	if err != nil && !errors.Is(err, errUnconfirmed) {
		return nil, err
	}
	reply, crossed, perr := parseReply(v)
	if perr != nil {
		return nil, perr
	}
	if errors.Is(err, errUnconfirmed) {
		keepGrants(req, reply)
	}
	s.announce(ctx, req.Subscription, crossed)
	return reply, nil
}

// keepGrants takes back, in an answer that no replica has, every grant above
// the one the node reported: a failover could forget it. The node asks again,
// and learns it once it is safe.
func keepGrants(req *quota.SyncRequest, reply *quota.SyncReply) {
	sent := map[quota.Counter]int64{}
	for _, c := range req.Counters {
		sent[quota.Counter{Lot: c.Lot, From: c.From}] = c.Granted
	}
	for i := range reply.Buckets {
		b := &reply.Buckets[i]
		b.Granted = min(b.Granted, max(sent[quota.Counter{Lot: b.Lot, From: b.From}], b.Used+b.Returned))
	}
}

// extending runs a step, and again after making the lists of bounds longer
// that it found too short.
func (s *Store) extending(ctx context.Context, id string, step func() ([]any, error)) ([]any, error) {
	for try := 0; ; try++ {
		v, err := step()
		if len(v) == 0 || v[0] != "NEED" {
			return v, err
		}
		if try == 4 {
			return nil, fmt.Errorf("quota: redis: subscription %s: periods of %v cannot be extended", id, v[2:])
		}
		now, err := strconv.ParseInt(fmt.Sprint(v[1]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("quota: redis: subscription %s: %w", id, err)
		}
		for _, l := range v[2:] {
			if err := s.extend(ctx, id, fmt.Sprint(l), now); err != nil {
				return nil, err
			}
		}
	}
}

// extend makes the list of bounds of one lot reach beyond now.
func (s *Store) extend(ctx context.Context, id, lotID string, now int64) error {
	text, err := s.client.HGet(ctx, s.keys(id)[6], lotID).Result()
	if err != nil {
		return fmt.Errorf("quota: redis: grant of lot %s: %w", lotID, err)
	}
	var g lot.Grant
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		return fmt.Errorf("quota: redis: grant of lot %s: %w", lotID, err)
	}
	_, err = s.run(ctx, boundsScript, id, s.clock(), lotID, g.Version, packBounds(&g, now))
	return err
}

// announce puts a subscription on the list of those with crossings to deliver.
// Should that fail, Tend does it later.
func (s *Store) announce(ctx context.Context, id string, crossed int64) {
	if crossed > 0 {
		_ = s.client.SAdd(ctx, s.outKey(), id).Err()
	}
}

// announceReply does the same for a step that answers with the number alone.
func (s *Store) announceReply(ctx context.Context, id string, v []any) {
	if len(v) > 1 {
		n, _ := strconv.ParseInt(fmt.Sprint(v[1]), 10, 64)
		s.announce(ctx, id, n)
	}
}

// CloseIncarnation implements quota.Leaser.
func (s *Store) CloseIncarnation(ctx context.Context, req *quota.CloseRequest) error {
	if err := req.Incarnation.Validate(); err != nil {
		return err
	}
	final := "0"
	if req.Final {
		final = "1"
	}
	args := []any{s.clock(), req.Incarnation.String(), final, req.Subscription, packOverrun(&req.Overrun), len(req.Counters)}
	for _, c := range req.Counters {
		args = append(args, c.Lot, c.From, 0, c.Used, 0)
	}
	v, err := s.runConfirmed(ctx, closeScript, req.Subscription, args...)
	s.announceReply(ctx, req.Subscription, v)
	if errors.Is(err, errUnconfirmed) && !req.Final {
		return nil // the node that is alive tells it again
	}
	return err
}

// Watch implements quota.Leaser.
func (s *Store) Watch(ctx context.Context, recall func(string)) error {
	sub := s.client.Subscribe(ctx, s.channel())
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("quota: redis: subscribe to recalls: %w", err)
	}
	messages := sub.Channel()
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return errors.New("quota: redis: the subscription to recalls ended")
			}
			recall(m.Payload)
		case <-ctx.Done():
			return nil
		}
	}
}

// ApplyGrant implements quota.Granter.
func (s *Store) ApplyGrant(ctx context.Context, g lot.Grant) (bool, error) {
	return s.grant(ctx, g, nil, "")
}

// Restore implements quota.Granter.
func (s *Store) Restore(ctx context.Context, g lot.Grant, floor []quota.Floor, learn time.Duration) error {
	_, err := s.grant(ctx, g, floor, strconv.FormatInt(learn.Milliseconds(), 10))
	return err
}

func (s *Store) grant(ctx context.Context, g lot.Grant, floor []quota.Floor, learn string) (bool, error) {
	if err := quota.ValidateGrant(&g); err != nil {
		return false, err
	}
	text, err := json.Marshal(&g)
	if err != nil {
		return false, err
	}
	// The list comes first: a subscription that has a grant and is not on it
	// would never be tended.
	if err := s.client.ZAdd(ctx, s.subsKey(), goredis.Z{Member: g.Subscription}).Err(); err != nil {
		return false, fmt.Errorf("quota: redis: list subscription %s: %w", g.Subscription, err)
	}
	now := time.Now()
	if s.opt.Now != nil {
		now = s.opt.Now()
	}
	args := []any{s.clock(), g.Subscription, g.ID, packLot(&g), packBounds(&g, now.UnixMilli()), g.Version, string(text), learn, quota.PeriodAt(&g, now.UnixMilli()).From, s.runID(), packAway(&g)}
	for _, f := range floor {
		args = append(args, quota.PeriodAt(&g, f.From).From, f.Used)
	}
	v, err := s.runConfirmed(ctx, grantScript, g.Subscription, args...)
	if err != nil && !errors.Is(err, errUnconfirmed) {
		return false, err
	}
	s.announceReply(ctx, g.Subscription, v)
	if err != nil {
		return false, fmt.Errorf("quota: redis: lot %s: %w: apply the grant again", g.ID, err)
	}
	return len(v) > 2 && v[2] == "1", nil
}

// SetThresholds implements quota.Granter.
func (s *Store) SetThresholds(ctx context.Context, t quota.Thresholds) (bool, error) {
	if err := t.Validate(); err != nil {
		return false, err
	}
	names := make([]string, len(t.Levels))
	for i, l := range t.Levels {
		names[i] = l.Name()
	}
	if err := s.client.ZAdd(ctx, s.subsKey(), goredis.Z{Member: t.Subscription}).Err(); err != nil {
		return false, fmt.Errorf("quota: redis: list subscription %s: %w", t.Subscription, err)
	}
	v, err := s.run(ctx, watchScript, t.Subscription, s.clock(), t.Subscription, int(t.Unit), t.Version, strings.Join(names, ","), packTold(t.Told))
	if err != nil {
		return false, err
	}
	s.announceReply(ctx, t.Subscription, v)
	return len(v) > 2 && v[2] == "1", nil
}

// Subscriptions implements quota.Reader.
func (s *Store) Subscriptions(ctx context.Context, after string, limit int) ([]string, error) {
	from := "-"
	if after != "" {
		from = "(" + after
	}
	ids, err := s.client.ZRangeByLex(ctx, s.subsKey(), &goredis.ZRangeBy{Min: from, Max: "+", Count: int64(limit)}).Result()
	if err != nil {
		return nil, fmt.Errorf("quota: redis: list subscriptions: %w", err)
	}
	return ids, nil
}

// Tend implements quota.Reader.
func (s *Store) Tend(ctx context.Context, req *quota.TendRequest) error {
	by := ""
	if req.By.Boot > 0 {
		by = req.By.String()
	}
	v, err := s.run(ctx, tendScript, req.Subscription, s.clock(), req.Subscription, req.Quarantine.Milliseconds(), by)
	if err != nil {
		return err
	}
	s.announceReply(ctx, req.Subscription, v)
	return s.fold(ctx, req.Subscription, req.Retention)
}

// Crossings implements quota.Outbox.
func (s *Store) Crossings(ctx context.Context, limit int) ([]quota.Crossing, error) {
	ids, err := s.client.SMembers(ctx, s.outKey()).Result()
	if err != nil {
		return nil, fmt.Errorf("quota: redis: list crossings: %w", err)
	}
	var out []quota.Crossing
	for _, id := range ids {
		if len(out) >= limit {
			break
		}
		// Off the list first: a crossing that comes between the two commands
		// puts it back, and Tend does should this process die here.
		if err := s.client.SRem(ctx, s.outKey(), id).Err(); err != nil {
			return nil, fmt.Errorf("quota: redis: list crossings: %w", err)
		}
		box, err := s.client.HGetAll(ctx, s.keys(id)[5]).Result()
		if err != nil {
			return nil, fmt.Errorf("quota: redis: crossings of %s: %w", id, err)
		}
		if len(box) == 0 {
			continue
		}
		s.announce(ctx, id, 1)
		list, err := parseOutbox(id, box)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out[:min(limit, len(out))], nil
}

// Ack implements quota.Outbox.
func (s *Store) Ack(ctx context.Context, done ...quota.Crossing) error {
	for _, c := range done {
		if err := s.client.HDel(ctx, s.keys(c.Subscription)[5], c.ID).Err(); err != nil {
			return fmt.Errorf("quota: redis: acknowledge %s: %w", c.ID, err)
		}
	}
	return nil
}
