package admin

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"tollgate/billing"
	"tollgate/internal/usage"
)

type wireLevel struct {
	Kind  billing.LevelKind `json:"kind" enum:"percent,absolute" doc:"percent of the total of the open packages, or absolute units."`
	Value int64             `json:"value" minimum:"0" maximum:"9007199254740991" doc:"Reached when no more than this remains (ALERT-21)."`
}

type wireThresholds struct {
	Unit      string      `json:"unit"`
	Levels    []wireLevel `json:"levels" doc:"Beside these, used up is always watched."`
	Delivered bool        `json:"delivered" doc:"The quota store watches them already."`
	Updated   time.Time   `json:"updated"`
}

func showThresholds(t *billing.Thresholds) wireThresholds {
	w := wireThresholds{Unit: t.Unit.String(), Levels: []wireLevel{}, Delivered: t.Delivered, Updated: t.Updated}
	for _, l := range t.Levels {
		w.Levels = append(w.Levels, wireLevel{l.Kind, l.Value})
	}
	return w
}

type wireCrossing struct {
	ID        string    `json:"id" doc:"One for each crossing, however often it is told."`
	Unit      string    `json:"unit"`
	Level     wireLevel `json:"level" doc:"absolute 0: used up."`
	Arm       int64     `json:"arm" doc:"Grows each time what remains has risen above the level again."`
	Remaining int64     `json:"remaining"`
	Total     int64     `json:"total"`
	At        time.Time `json:"at"`
	Received  time.Time `json:"received"`
}

func showCrossing(c *billing.Crossing) wireCrossing {
	return wireCrossing{
		ID: c.ID, Unit: c.Unit.String(), Level: wireLevel{c.Level.Kind, c.Level.Value}, Arm: c.Arm, Remaining: c.Remaining, Total: c.Total,
		At: c.At, Received: c.Received,
	}
}

// registerThresholds registers what is watched of a subscription's packages, and
// what was seen.
func (s *Server) registerThresholds() {
	const tag = "Subscriptions"
	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/crossings", id: "list-crossings", tag: tag, summary: "When a subscription's packages reached a threshold", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Paged
		},
		) (*body[list[wireCrossing]], error) {
			sub, err := s.subscriptionFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			items, next, err := s.deps.Billing.Crossings(ctx, billing.CrossingFilter{Subscription: sub.ID, Page: in.billing()})
			if err != nil {
				return nil, err
			}
			return listed(items, next, showCrossing), nil
		})

	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/thresholds", id: "list-thresholds", tag: tag, summary: "The levels watched of a subscription's packages", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*body[list[wireThresholds]], error) {
			sub, err := s.subscriptionFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			items, err := s.deps.Billing.Thresholds(ctx, sub.ID)
			if err != nil {
				return nil, err
			}
			return listed(items, "", showThresholds), nil
		})

	handle(s, route{method: http.MethodPut, path: "/subscriptions/{id}/thresholds/{unit}", id: "set-thresholds", tag: tag, summary: "Replace the levels watched of a subscription's packages", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Unit string `path:"unit" enum:"call,token,input_token,output_token,image,second,character" doc:"The billing item."`
			Body struct {
				Levels []wireLevel `json:"levels" maxItems:"16"`
			}
		},
		) (*body[wireThresholds], error) {
			sub, err := s.subscriptionFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			unit, err := usage.ParseUnit(in.Unit)
			if err != nil {
				return nil, &InvalidError{[]Fault{{"path.unit", "must be a known unit"}}}
			}
			change := billing.ThresholdChange{Subscription: sub.ID, Unit: unit, Actor: a.Token}
			for _, l := range in.Body.Levels {
				change.Levels = append(change.Levels, billing.Level{Kind: l.Kind, Value: l.Value})
			}
			t, err := s.deps.Billing.SetThresholds(ctx, change)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "subscription.thresholds", slog.String("id", sub.ID))
			return reply(showThresholds(&t)), nil
		})
}
