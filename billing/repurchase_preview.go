package billing

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tollgate/internal/money"
	"tollgate/internal/usage"
)

// Preview says, before auto-repurchase is switched on, what it would do.
type Preview struct {
	Spec       Spec
	BuysNow    int64        // packages bought at once, since the level is reached already
	NowAmount  money.Amount // for them
	At         map[usage.Unit]int64
	WorstDay   money.Amount // most it can spend on one day
	WorstMonth money.Amount // and in one month
	Last30     int64        // packages it would have bought in the last 30 days
	Last30Cost money.Amount
	Zh, En     string // the same in a sentence
}

// PreviewRepurchase checks in as SetRepurchase does and says what it would do. It
// changes nothing.
func (s *Service) PreviewRepurchase(ctx context.Context, in RepurchaseInput) (Preview, error) {
	if err := in.validate(); err != nil {
		return Preview{}, err
	}
	sub, err := getSubscription(ctx, s.db, in.Subscription)
	if err != nil {
		return Preview{}, err
	}
	p := Preview{At: map[usage.Unit]int64{}}
	if p.Spec, err = s.checkRepurchase(ctx, s.db, &sub, in); err != nil {
		return Preview{}, err
	}
	if p.WorstDay, p.WorstMonth, err = worst(p.Spec.Price, in); err != nil {
		return Preview{}, err
	}
	if s.quota != nil {
		b, err := s.quota.Read(ctx, sub.ID)
		if err != nil {
			return Preview{}, err
		}
		for _, u := range sub.Units {
			_, total := watched(&b, u)
			p.At[u] = in.Level.units(total)
		}
		p.BuysNow = min(packagesNeeded(&b, sub.Units, in.Level, &p.Spec), in.DayLimit)
		if in.MonthCap > 0 {
			p.BuysNow = min(p.BuysNow, int64(in.MonthCap/p.Spec.Price))
		}
		if p.NowAmount, err = orderAmount(p.Spec.Price, p.BuysNow); err != nil {
			return Preview{}, err
		}
	}
	if s.pace != nil {
		now := s.instant()
		for _, q := range p.Spec.Quotas {
			used, err := s.pace.Used(ctx, sub.ID, q.Unit, now.Add(-30*24*time.Hour), now)
			if err != nil {
				return Preview{}, err
			}
			p.Last30 = max(p.Last30, used/q.Amount)
		}
		if p.Last30Cost, err = orderAmount(p.Spec.Price, p.Last30); err != nil {
			return Preview{}, err
		}
	}
	p.Zh, p.En = p.sentences(in)
	return p, nil
}

// units is the amount at which l is reached, of packages with that total.
func (l Level) units(total int64) int64 {
	if l.Kind == LevelAbsolute {
		return l.Value
	}
	return total/100*l.Value + total%100*l.Value/100
}

// worst is the most that in can spend in a day and in a month. A day's number
// of packages is bounded whatever the frequency, since one order may hold
// several.
func worst(price money.Amount, in RepurchaseInput) (day, month money.Amount, err error) {
	if day, err = orderAmount(price, in.DayLimit); err != nil {
		return 0, 0, err
	}
	if month, err = orderAmount(price, in.DayLimit*31); err != nil {
		return 0, 0, err
	}
	if in.MonthCap > 0 {
		day, month = min(day, in.MonthCap), min(month, in.MonthCap)
	}
	return day, month, nil
}

func (p *Preview) sentences(in RepurchaseInput) (zh, en string) {
	var z, e strings.Builder
	fmt.Fprintf(&z, "余量降至 %s 时，从余额自动购买“%s”，每份 ¥%s。", in.Level, p.Spec.Name, p.Spec.Price)
	fmt.Fprintf(&e, "When no more than %s is left, %q is bought from your balance for ¥%s each. ", in.Level, p.Spec.Name, p.Spec.Price)
	if p.BuysNow > 0 {
		fmt.Fprintf(&z, "余量已低于阈值：保存后立即购买 %d 份，共 ¥%s。", p.BuysNow, p.NowAmount)
		fmt.Fprintf(&e, "You are below that already: saving buys %d at once for ¥%s. ", p.BuysNow, p.NowAmount)
	}
	fmt.Fprintf(&z, "最多每天 ¥%s，每月 ¥%s。", p.WorstDay, p.WorstMonth)
	fmt.Fprintf(&e, "At worst it spends ¥%s a day and ¥%s a month. ", p.WorstDay, p.WorstMonth)
	fmt.Fprintf(&z, "按最近 30 天的用量，会购买 %d 份，共 ¥%s。", p.Last30, p.Last30Cost)
	fmt.Fprintf(&e, "On the last 30 days it would have bought %d for ¥%s.", p.Last30, p.Last30Cost)
	return z.String(), e.String()
}
