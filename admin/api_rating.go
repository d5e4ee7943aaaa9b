package admin

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// wireBucket is one sealed bucket.
type wireBucket struct {
	ID         string     `json:"id" doc:"Names it for ever: subscription, billing item, hour and number."`
	Hour       time.Time  `json:"hour" doc:"When its hour begins; the calls are those admitted in it."`
	Unit       string     `json:"unit"`
	Seq        int        `json:"seq" doc:"0 for the hour's first, 1 and on for adjustments."`
	Adjustment bool       `json:"adjustment" doc:"It corrects an hour that was sealed before; its quantity is the difference."`
	Quantity   int64      `json:"quantity" doc:"Units used beyond every package."`
	Sealed     time.Time  `json:"sealed"`
	Charged    *time.Time `json:"charged,omitempty" doc:"When billing took it."`
}

// wireRatedCall is one call of a bucket.
type wireRatedCall struct {
	RequestID string    `json:"request_id"`
	Time      time.Time `json:"time"`
	Basis     string    `json:"basis"`
	Beyond    amounts   `json:"beyond" doc:"Units used beyond every package: the bucket's quantity is their sum."`
}

// bucketCursor is a bucket's place in the order of its subscription.
func bucketCursor(b *usage.Bucket) string {
	return strconv.FormatInt(b.Hour.UnixMilli(), 10) + "." + b.Unit.String() + "." + strconv.Itoa(b.Seq)
}

func parseBucketCursor(text string) (b usage.Bucket, err error) {
	if text == "" {
		return b, nil
	}
	parts := strings.Split(text, ".")
	bad := &InvalidError{[]Fault{{"query.cursor", "must be the next of the part before"}}}
	if len(parts) != 3 {
		return b, bad
	}
	ms, err1 := strconv.ParseInt(parts[0], 10, 64)
	unit, err2 := usage.ParseUnit(parts[1])
	seq, err3 := strconv.Atoi(parts[2])
	if err1 != nil || err2 != nil || err3 != nil {
		return b, bad
	}
	return usage.Bucket{Hour: time.UnixMilli(ms).UTC(), Unit: unit, Seq: seq}, nil
}

// registerRating serves what on-demand use is charged by, down to its calls.
func (s *Server) registerRating(tag string) {
	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/rating", id: "list-rating", tag: tag, summary: "The sealed hour buckets that on-demand use is charged by, oldest first", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Paged
			From time.Time `query:"from" doc:"Not before; default 30 days before to."`
			To   time.Time `query:"to" doc:"Before; default now."`
		},
		) (*body[list[wireBucket]], error) {
			if _, err := s.subscriptionFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if s.deps.Rating == nil {
				return nil, ErrUnavailable
			}
			if in.To.IsZero() {
				in.To = s.now()
			}
			if in.From.IsZero() {
				in.From = in.To.AddDate(0, 0, -30)
			}
			after, err := parseBucketCursor(in.Cursor)
			if err != nil {
				return nil, err
			}
			items, err := s.deps.Rating.Buckets(ctx, in.ID, in.From, in.To, after, in.Limit+1)
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, bucketCursor, func(b *usage.Bucket) wireBucket {
				return wireBucket{
					ID: b.ID(), Hour: b.Hour, Unit: b.Unit.String(), Seq: b.Seq, Adjustment: b.Adjustment(),
					Quantity: b.Quantity, Sealed: b.Sealed, Charged: instant(b.Taken),
				}
			}), nil
		})

	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/rating/requests", id: "list-rated-requests", tag: tag, summary: "The calls behind the buckets of one hour; a part may be empty before the end", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Paged
			Hour time.Time `query:"hour" required:"true" doc:"The hour of the buckets."`
			Unit string    `query:"unit" enum:"call,token,input_token,output_token,image,second,character" doc:"Only calls that used this beyond the packages."`
		},
		) (*body[list[wireRatedCall]], error) {
			if _, err := s.subscriptionFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if s.deps.Usage == nil {
				return nil, ErrUnavailable
			}
			hour := in.Hour.UTC().Truncate(time.Hour)
			counted := true
			page, err := s.deps.Usage.List(ctx, metering.ListInput{
				From: hour, To: hour.Add(time.Hour), After: in.Cursor, Limit: in.Limit, Filter: metering.Filter{Subscriptions: []string{in.ID}, Counted: &counted},
			})
			if err != nil {
				return nil, err
			}
			out := list[wireRatedCall]{Items: []wireRatedCall{}, Next: page.Next}
			for i := range page.Records {
				r := &page.Records[i]
				over := showUnits(&r.Overrun)
				if len(over) > 0 && (in.Unit == "" || over[in.Unit] != 0) {
					out.Items = append(out.Items, wireRatedCall{r.ID.String(), r.Time, r.Basis.String(), over})
				}
			}
			return reply(out), nil
		})
}
