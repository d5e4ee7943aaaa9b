package ledger

import (
	"tollgate/internal/usage"
	"tollgate/quota"
)

// Sync merges what a node knows, renews its lease, grants what it asks for as
// far as there is, and answers with the state it should hold. It reports
// whether idle units of other nodes should be recalled.
func (a *Account) Sync(env Env, req *quota.SyncRequest) (reply *quota.SyncReply, recall bool) {
	if a.ghost(req.Incarnation) {
		return &quota.SyncReply{Now: max(a.Clock, env.Now), Closed: true}, false
	}
	now, skewed := a.tick(env, req.Now)
	inc := req.Incarnation.String()
	ttl := req.TTL.Milliseconds()
	reply = &quota.SyncReply{Now: now, Skewed: skewed}
	another := a.Run != "" && env.Run != a.Run
	if another && !skewed {
		a.Learn = max(a.Learn, now+ttl)
	}
	if !another || !skewed {
		// A clock that stands still cannot time the relearning: the next report
		// begins it, and until then nothing is granted.
		a.Run = env.Run
	}
	node := a.node(inc)
	if lost := a.merge(inc, node, req.Counters, req.Overrun); lost {
		// The node holds a grant that is not on the books: writes were lost.
		a.Learn = max(a.Learn, now+ttl)
	}
	node.Seen = now
	reply.Closed = node.State == NodeFinal
	if !reply.Closed {
		node.State = NodeOpen
		node.Deadline = now + ttl
		a.supersede(req.Incarnation)
		if !skewed {
			a.reclaimOverdue(now, inc, req.Quarantine.Milliseconds())
		}
		reply.Learning = now < a.Learn || a.Run != env.Run
		for _, d := range req.Demands {
			unmet := a.grant(inc, now, d, reply.Learning)
			recall = recall || unmet
		}
		if recall = recall && now-a.Recall >= RecallGap; recall {
			a.Recall = now
		}
	}
	a.evaluate(now)
	a.describe(reply, inc, now, req)
	return reply, recall
}

// ghost reports whether everything of an incarnation was folded. Nothing it
// still says can be told from what is in the base row.
func (a *Account) ghost(i quota.Incarnation) bool { return i.Boot <= a.Folded[i.Node] }

func (a *Account) node(inc string) *Node {
	n := a.Nodes[inc]
	if n == nil {
		n = &Node{}
		a.Nodes[inc] = n
	}
	return n
}

// merge takes every counter by its maximum and moves the sums by the
// differences. It reports whether the node knows of a grant that the account
// does not.
func (a *Account) merge(inc string, node *Node, counters []quota.Counter, overrun usage.Units) (lost bool) {
	for _, c := range counters {
		if l := a.Lots[c.Lot]; l != nil && c.From < l.FoldedTo {
			continue
		}
		t := a.counter(inc, c.Lot, c.From)
		g := max(t.Granted, c.Granted)
		u := max(t.Used, c.Used)
		if g > t.Granted && !a.credit(c.Lot) {
			lost = true
		}
		g = max(g, u)
		// A late use shrinks what was returned or taken back.
		r := min(max(t.Returned, c.Returned), g-u)
		a.move(t, c.Lot, c.From, Counter{g, u, r})
	}
	for u := range overrun {
		node.Overrun[u] = max(node.Overrun[u], overrun[u])
	}
	return lost
}

// credit reports whether nodes may draw on the lot on their own while the store
// is away.
func (a *Account) credit(id string) bool {
	l := a.Lots[id]
	return l != nil && l.Continues()
}

func (a *Account) counter(inc, id string, from int64) *Counter {
	key := CounterKey(inc, id, from)
	t := a.Counters[key]
	if t == nil {
		t = &Counter{}
		a.Counters[key] = t
	}
	return t
}

// move replaces a counter and keeps the sums of its bucket.
func (a *Account) move(t *Counter, id string, from int64, to Counter) {
	b := a.bucket(id, from)
	b.Used += to.Used - t.Used
	b.Out += to.out() - t.out()
	*t = to
}

// grant raises the node's outstanding units to what it demands. It walks the
// open lots in order and never passes one that still has units for anyone. It
// reports whether calls wait in vain while other nodes hold units.
func (a *Account) grant(inc string, now int64, d quota.Demand, closed bool) (recall bool) {
	at := now
	if d.At != 0 && d.At < now {
		at = max(d.At, now-LateWindow)
	}
	lots := a.open(d.Unit, at)
	have, others := int64(0), int64(0)
	for _, l := range lots {
		if t := a.Counters[CounterKey(inc, l.ID, l.period.From)]; t != nil {
			have += t.out()
			others -= t.out()
		}
		others += l.bucket.Out
	}
	n := a.active(now)
	left := int64(0)
	for _, l := range lots {
		left += max(0, l.bucket.remaining())
	}
	for _, l := range lots {
		rem := l.bucket.remaining()
		if rem <= 0 {
			continue
		}
		if closed || have >= max(d.Floor, d.Target) {
			break
		}
		share := int64(1)
		// Shares shrink as all lots together run out: a small lot with others
		// behind it may go to one node whole.
		if left > 2*n {
			share = left / (2 * n)
		}
		left -= rem
		give := min(max(d.Floor-have, min(d.Target-have, share)), rem)
		t := a.counter(inc, l.ID, l.period.From)
		a.move(t, l.ID, l.period.From, Counter{t.Granted + give, t.Used, t.Returned})
		have += give
		if give < rem {
			break // this lot still has units: the next one must wait
		}
	}
	return have < d.Floor && others > 0 && !closed
}

// describe fills the reply with the buckets that concern the node.
func (a *Account) describe(reply *quota.SyncReply, inc string, now int64, req *quota.SyncRequest) {
	reply.Active = int(a.active(now))
	seen := map[string]bool{}
	for _, l := range a.Lots {
		reply.Known[l.Unit] = true
		reply.NextChange = earliest(reply.NextChange, l.nextChange(now), now)
	}
	for unit := range usage.NumUnits {
		if !reply.Known[unit] {
			continue
		}
		for _, l := range a.open(unit, now) {
			seen[BucketKey(l.ID, l.period.From)] = true
			v := a.view(inc, l.ID, l.period.From)
			v.Open, v.To, v.Remaining = true, l.period.To, max(0, l.bucket.remaining())
			reply.Buckets = append(reply.Buckets, v)
		}
		for _, d := range req.Demands {
			if d.Unit != unit || d.At == 0 || d.At >= now {
				continue
			}
			for _, l := range a.open(unit, max(d.At, now-LateWindow)) {
				if key := BucketKey(l.ID, l.period.From); !seen[key] && a.Counters[inc+"|"+key] != nil {
					seen[key] = true
					reply.Buckets = append(reply.Buckets, a.past(inc, l.ID, l.period.From, l.period.To))
				}
			}
		}
	}
	for _, c := range req.Counters {
		if key := BucketKey(c.Lot, c.From); !seen[key] {
			seen[key] = true
			reply.Buckets = append(reply.Buckets, a.view(inc, c.Lot, c.From))
		}
	}
}

func (a *Account) view(inc, id string, from int64) quota.Bucket {
	v := quota.Bucket{Counter: quota.Counter{Lot: id, From: from}}
	if b := a.Buckets[BucketKey(id, from)]; b != nil {
		v.Outstanding = b.Out
	}
	if l := a.Lots[id]; l != nil {
		v.Unit, v.Overflow = l.Unit, l.Overflow
		v.Away = quota.Away{Continue: l.Continues(), Seconds: l.Away.Seconds, Credit: l.Away.Credit}
	}
	if t := a.Counters[CounterKey(inc, id, from)]; t != nil {
		v.Granted, v.Used, v.Returned = t.Granted, t.Used, t.Returned
	}
	return v
}

func (a *Account) past(inc, id string, from, to int64) quota.Bucket {
	v := a.view(inc, id, from)
	v.To = to
	return v
}

// nextChange returns the next instant at which l opens, resets or ends.
func (l *Lot) nextChange(now int64) int64 {
	if l.Void {
		return 0
	}
	if eff := l.Effective.UnixMilli(); eff > now {
		return eff
	}
	return quota.PeriodAt(&l.Grant, now).To
}

// earliest returns the earlier of two instants that lie after now; 0 is never.
func earliest(x, y, now int64) int64 {
	if y == 0 || y <= now || x != 0 && x <= y {
		return x
	}
	return y
}

// Close ends an incarnation: for good with what its journal says, or until it
// reports again.
func (a *Account) Close(env Env, req *quota.CloseRequest) {
	if a.ghost(req.Incarnation) {
		return
	}
	now, _ := a.tick(env, 0)
	inc := req.Incarnation.String()
	node := a.node(inc)
	a.merge(inc, node, req.Counters, req.Overrun)
	a.returnAll(inc)
	node.Seen = max(node.Seen, now)
	switch {
	case req.Final:
		node.State = NodeFinal
	case node.State == NodeOpen:
		node.State = NodeReclaimed
	}
	a.evaluate(now)
}

// returnAll gives back everything that is outstanding with an incarnation.
func (a *Account) returnAll(inc string) {
	for key, t := range a.Counters {
		if i, id, from := SplitCounterKey(key); i == inc && t.out() > 0 {
			a.move(t, id, from, Counter{t.Granted, t.Used, t.Granted - t.Used})
		}
	}
}

// reclaimOverdue takes back what nodes hold that are dead for longer than
// quarantine past their lease. While the account relearns its state nothing is
// taken back: a node may simply not have reported yet.
func (a *Account) reclaimOverdue(now int64, but string, quarantine int64) {
	if now < a.Learn {
		return
	}
	for inc, node := range a.Nodes {
		if inc != but && node.State == NodeOpen && node.Deadline+quarantine <= now {
			a.returnAll(inc)
			node.State = NodeReclaimed
		}
	}
}

// supersede closes the earlier incarnations of a node that has started again.
// The node settled what its journal held of them before it reported as a new
// one, and the process that had their leases is gone.
func (a *Account) supersede(by quota.Incarnation) {
	for inc, node := range a.Nodes {
		i, err := quota.ParseIncarnation(inc)
		if err == nil && i.Node == by.Node && i.Boot < by.Boot && node.State != NodeFinal {
			a.returnAll(inc)
			node.State = NodeFinal
		}
	}
}

// Tend does the housekeeping that no report caused.
func (a *Account) Tend(env Env, req *quota.TendRequest) {
	now, _ := a.tick(env, 0)
	if req.By.Boot > 0 {
		a.supersede(req.By)
	}
	a.reclaimOverdue(now, "", req.Quarantine.Milliseconds())
	a.Fold(now, req.Retention.Milliseconds())
	a.evaluate(now)
}
