package compare

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"text/tabwriter"
	"time"

	"tollgate/bench"
)

// Scale is what a call costs against one size of directory and package.
type Scale struct {
	Credentials int `json:"credentials"`
	Lots        int `json:"lots"` // of the subscription that is called
	Products    int `json:"products"`

	CPU       float64    `json:"cpu_us_per_request"`
	CPUSpread [2]float64 `json:"cpu_us_spread"`
	Ratio     float64    `json:"cpu_vs_smallest"` // median of the rounds' own ratios
	RPS       float64    `json:"rps"`
	P50       int64      `json:"p50_us"`
	P99       int64      `json:"p99_us"`
	RSS       float64    `json:"rss_mb"`
	Peak      float64    `json:"peak_mb"` // highest resident size, taking the directory included
	RSSRatio  float64    `json:"rss_vs_smallest"`
	Errors    int64      `json:"errors"`

	Sealed float64 `json:"snapshot_mb"` // sealed, on the wire
	Load   float64 `json:"load_ms"`     // from start to ready

	// A new directory was put in force during an open loop of SwapRate calls a
	// second: how long that took, and what the calls saw, beside the same loop
	// without one.
	SwapRate  float64 `json:"swap_rate"`
	Swap      float64 `json:"swap_ms"`
	SwapP99   int64   `json:"swap_p99_us"`
	SwapP999  int64   `json:"swap_p999_us"`
	QuietP99  int64   `json:"quiet_p99_us"`
	QuietP999 int64   `json:"quiet_p999_us"`

	FirstError string `json:"first_error,omitempty"`
}

// sizes are what is measured; each later one grows one thing of the first.
var sizes = []Scale{
	{Credentials: 1, Lots: 1, Products: 3},
	{Credentials: 1000, Lots: 1, Products: 3},
	{Credentials: 1_000_000, Lots: 1, Products: 3},
	{Credentials: 1, Lots: 50, Products: 3},
	{Credentials: 1, Lots: 1, Products: 10_000},
}

// sized is a gateway with one size of directory.
type sized struct {
	Scale
	world  *world
	feed   *multiplier
	target *target
	rounds []measurement
}

// scale measures all sizes in turn, round by round.
func (r *runner) scale(ctx context.Context, sizes []Scale) (out []Scale, err error) {
	var list []*sized
	defer func() {
		for _, z := range list {
			err = errors.Join(err, z.feed.stop())
		}
	}()
	admins := map[int]*world{}
	for _, want := range sizes {
		admin := admins[want.Lots]
		if admin == nil {
			if admin, err = r.bed.adminWithLots(ctx, want.Lots, len(admins)); err != nil {
				return nil, err
			}
			admins[want.Lots] = admin
		}
		z, err := r.bed.sized(ctx, want, admin, len(list))
		if z != nil {
			list = append(list, z)
		}
		if err != nil {
			return nil, fmt.Errorf("%d credentials, %d lots, %d products: %w", want.Credentials, want.Lots, want.Products, err)
		}
		fmt.Fprintf(r.progress, "scale  %s: ready after %.0f ms, %.0f MB resident\n", z.name(), z.Load, residentMB(z.world.proc.pid()))
	}
	for i := range r.plan.rounds {
		for _, z := range list {
			m, err := r.bed.measure(ctx, z.target, r.order(z.target, scenarioClosed, 0))
			if err != nil {
				return nil, err
			}
			z.rounds = append(z.rounds, m)
			fmt.Fprintf(r.progress, "scale  %s round %d: %6.0f/s  %6.2f µs CPU a call\n", z.name(), i+1, float64(m.Requests)/m.Seconds, m.cpu)
		}
	}
	for _, z := range list {
		var x Run
		x.Scenario = scenarioClosed
		x.merge(z.rounds)
		z.CPU, z.CPUSpread, z.RPS, z.P50, z.P99, z.RSS, z.Errors, z.FirstError = x.CPU, x.CPUSpread, x.RPS, x.P50, x.P99, x.RSS, x.Errors, x.FirstError
		var ratios []float64
		for i := range z.rounds {
			ratios = append(ratios, z.rounds[i].cpu/list[0].rounds[i].cpu)
		}
		z.Ratio = round3(median(ratios))
		z.RSSRatio = round3(z.RSS / list[0].RSS)
		if err := r.swap(ctx, z); err != nil {
			return nil, fmt.Errorf("a swap of %s: %w", z.name(), err)
		}
		z.Peak = peakMB(z.world.proc.pid())
		out = append(out, z.Scale)
	}
	return out, nil
}

func (z *sized) name() string {
	return fmt.Sprintf("%7d credentials, %2d lots, %5d products", z.Credentials, z.Lots, z.Products)
}

// adminWithLots starts an admin role whose demo subscription has so many lots.
func (b *bed) adminWithLots(ctx context.Context, lots, n int) (*world, error) {
	redis, err := b.redis(ctx)
	if err != nil {
		return nil, err
	}
	w, err := b.roleAdmin(ctx, "scale-admin-"+strconv.Itoa(n), "redis://"+redis.addr+"/"+strconv.Itoa(3+n))
	if err != nil || lots < 2 {
		return w, err
	}
	text, err := fetch(ctx, "http://"+w.api+"/api/v1/orders", w.demo.OperatorToken)
	if err != nil {
		return nil, err
	}
	var orders struct {
		Items []struct {
			Account      string `json:"account_id"`
			Spec         string `json:"spec_id"`
			Subscription string `json:"subscription_id"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(text), &orders); err != nil {
		return nil, err
	}
	for _, o := range orders.Items {
		if o.Subscription == w.demo.LLM.SubscriptionID {
			return w, b.buy(ctx, w, o.Account, o.Spec, lots)
		}
	}
	return nil, errors.New("the demo's order is not listed")
}

// buy orders further packages until the demo's subscription has so many lots,
// and waits until they are in the quota store.
func (b *bed) buy(ctx context.Context, w *world, account, spec string, lots int) error {
	order, err := json.Marshal(map[string]any{"account_id": account, "spec_id": spec, "quantity": lots - 1})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.api+"/api/v1/orders", bytes.NewReader(order))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.demo.OperatorToken)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", "scale-lots")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("the order of %d packages: %s: %.300s", lots-1, resp.Status, body)
	}
	return w.proc.ready(ctx, func(ctx context.Context) error {
		text, err := fetch(ctx, "http://"+w.api+"/api/v1/subscriptions/"+w.demo.LLM.SubscriptionID+"/quota", w.demo.OperatorToken)
		if err != nil {
			return err
		}
		var q struct{ Lots []json.RawMessage }
		if err := json.Unmarshal([]byte(text), &q); err != nil {
			return err
		}
		if len(q.Lots) != lots {
			return fmt.Errorf("%d lots in place of %d", len(q.Lots), lots)
		}
		return nil
	})
}

// sized starts a gateway on a directory of that size.
func (b *bed) sized(ctx context.Context, want Scale, admin *world, n int) (*sized, error) {
	redis, err := b.redis(ctx)
	if err != nil {
		return nil, err
	}
	m, err := multiply(ctx, admin, want.Credentials, want.Products)
	if err != nil {
		return nil, err
	}
	z := &sized{Scale: want, feed: m}
	z.Sealed = round3(float64(len(m.sealed)) / 1e6)
	began := time.Now()
	store := "redis://" + redis.addr + "/3"
	if want.Lots > 1 {
		store = "redis://" + redis.addr + "/4"
	}
	if z.world, err = b.roleGateway(ctx, "scale-"+strconv.Itoa(n), admin, store, "http://"+m.addr); err != nil {
		return z, err
	}
	z.Load = math.Round(float64(time.Since(began).Microseconds()) / 1e3)
	targets, err := withStore(redis.proc, admin.proc)(z.world.targets(ctx, "redis", "gateway"))
	if err != nil {
		return z, err
	}
	z.target = targets[0] // by API key
	call := z.target.call
	z.target.call = func(stream bool) bench.Scenario {
		s := call(stream)
		s.Auth.Key = spreadPrefix + string(bench.AppendSpread(nil, 0))
		s.Auth.Spread = int64(want.Credentials)
		return s
	}
	return z, b.checked(ctx, z.target)
}

// swap has a new directory come into force while calls are due at a fixed rate.
func (r *runner) swap(ctx context.Context, z *sized) error {
	o := r.order(z.target, scenarioOpen, max(1, math.Floor(z.RPS/4)))
	o.Connections = min(o.Connections, 64) // one credential has no more than 100 calls at once
	z.SwapRate = o.Rate
	quiet, err := r.bed.measure(ctx, z.target, o)
	if err != nil {
		return err
	}
	z.QuietP99, z.QuietP999 = quiet.P99, quiet.P999
	// About as long as the swap takes: the quantiles are of calls during it, not
	// of a quiet time around it.
	o.Duration = max(500*time.Millisecond, time.Duration(z.Load)*time.Millisecond)
	if err := z.feed.seal(); err != nil {
		return err
	}
	var began time.Time
	done := make(chan error, 1)
	r.bed.began = func() {
		began = time.Now()
		z.feed.release()
		go func() {
			done <- z.feed.at(ctx, z.world)
			z.Swap = math.Round(float64(time.Since(began).Microseconds()) / 1e3)
		}()
	}
	m, err := r.bed.measure(ctx, z.target, o)
	r.bed.began = nil
	if err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	z.SwapP99, z.SwapP999 = m.P99, m.P999
	z.Errors += m.Errors + quiet.Errors
	z.FirstError = cmp.Or(z.FirstError, quiet.FirstErr, m.FirstErr)
	return nil
}

// writeSizes prints the sizes for people.
func (r *Report) writeSizes(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d cores: gateway on core %d, generator, upstream, Redis and admin role on core %d; %d connections, answers of %d bytes, %d rounds of %.1f s, medians\n\n",
		r.Machine.CPU, r.Machine.Cores, r.Load.Cores.Target, r.Load.Cores.Load, r.Load.Connections, r.Load.AnswerBytes, r.Load.Rounds, r.Load.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "credentials\tlots\tproducts\tCPU µs/call\tratio\tcalls/s\tp99 µs\tRSS MB\tpeak MB\tsnapshot MB\tload ms\tswap ms\tp99 µs in swap\tand without\terrors")
	for _, x := range r.Scale {
		fmt.Fprintf(t, "%d\t%d\t%d\t%.1f\t%.3f\t%.0f\t%d\t%.0f\t%.0f\t%.1f\t%.0f\t%.0f\t%d\t%d\t%d\n", x.Credentials, x.Lots, x.Products,
			x.CPU, x.Ratio, x.RPS, x.P99, x.RSS, x.Peak, x.Sealed, x.Load, x.Swap, x.SwapP99, x.QuietP99, x.Errors)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return nil
}
