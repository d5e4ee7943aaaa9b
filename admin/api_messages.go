package admin

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/jobs"
)

type wireMessage struct {
	ID       string     `json:"id"`
	Kind     string     `json:"kind"`
	Category string     `json:"category"`
	Object   string     `json:"object_id,omitempty" doc:"What it is about."`
	Subject  string     `json:"subject"`
	Body     string     `json:"body"`
	Created  time.Time  `json:"created"`
	Read     *time.Time `json:"read,omitempty"`
}

type wireDelivery struct {
	ID       string         `json:"id"`
	Message  string         `json:"message_id"`
	Account  string         `json:"account_id"`
	Category string         `json:"category"`
	Channel  notify.Channel `json:"channel"`
	Target   string         `json:"target" doc:"The address it went to."`
	Subject  string         `json:"subject"`
	State    string         `json:"state" enum:"pending,sent,failed,unsent" doc:"unsent: this installation has no sender for the channel."`
	Last     string         `json:"last,omitempty" doc:"What the other side said last."`
	Attempts []wireAttempt  `json:"attempts"`
	Due      time.Time      `json:"due"`
	Created  time.Time      `json:"created"`
	Done     *time.Time     `json:"done,omitempty"`
}

type wireAttempt struct {
	At    time.Time `json:"at"`
	Took  int64     `json:"took_ms"`
	OK    bool      `json:"ok"`
	Code  string    `json:"code,omitempty" doc:"SMTP code or HTTP status."`
	Error string    `json:"error,omitempty"`
}

// messages is the message centre, which must be there.
func (s *Server) messages() (Messages, error) {
	if s.deps.Messages == nil {
		return nil, ErrUnavailable
	}
	return s.deps.Messages, nil
}

func (s *Server) registerMessages() {
	const tag = "Messages"
	handle(s, route{method: http.MethodGet, path: "/messages", id: "list-messages", tag: tag, summary: "The inbox of an account", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			ForAccount
			Language string `query:"language" enum:"zh,en" default:"zh" doc:"Of the texts."`
			Unread   bool   `query:"unread" doc:"Only those that were not read."`
		},
		) (*body[list[wireMessage]], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			account, err := forAccount(a, "query.account_id", in.Account)
			if err != nil {
				return nil, err
			}
			in.Limit = min(in.Limit, 199)
			items, err := m.Inbox(ctx, account, in.Language, in.Cursor, in.Unread, in.Limit+1)
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(v *notify.Message) string { return v.ID }, func(v *notify.Message) wireMessage {
				return wireMessage{ID: v.ID, Kind: v.Kind, Category: v.Category, Object: v.Object, Subject: v.Text.Subject, Body: v.Text.Body, Created: v.Created, Read: instant(v.Read)}
			}), nil
		})

	type unread struct {
		Unread int `json:"unread"`
	}
	handle(s, route{method: http.MethodGet, path: "/messages/unread", id: "count-unread-messages", tag: tag, summary: "How many messages were not read", roles: anyRole},
		func(ctx context.Context, a Actor, in *ForAccount) (*body[unread], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			account, err := forAccount(a, "query.account_id", in.Account)
			if err != nil {
				return nil, err
			}
			n, err := m.Unread(ctx, account)
			if err != nil {
				return nil, err
			}
			return reply(unread{n}), nil
		})

	type marked struct {
		Marked int64 `json:"marked"`
	}
	handle(s, route{method: http.MethodPost, path: "/messages/read", id: "mark-messages-read", tag: tag, summary: "Mark messages as read", roles: []Role{RoleSeller, RoleBuyer}},
		func(ctx context.Context, a Actor, in *struct {
			Body struct {
				IDs []string `json:"ids,omitempty" maxItems:"500" doc:"Absent: all."`
			}
		},
		) (*body[marked], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			n, err := m.MarkRead(ctx, a.Account, in.Body.IDs...)
			if err != nil {
				return nil, err
			}
			return reply(marked{n}), nil
		})

	handle(s, route{method: http.MethodGet, path: "/deliveries", id: "list-deliveries", tag: tag, summary: "What was sent to whom, with every attempt", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			ForAccount
			Message string         `query:"message_id" maxLength:"64" doc:"Only those of this message."`
			State   string         `query:"state" enum:"pending,sent,failed,unsent" doc:"Only these."`
			Channel notify.Channel `query:"channel" enum:"mail,sms,voice,webhook" doc:"Only these."`
		},
		) (*body[list[wireDelivery]], error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			account, err := listAccount(a, in.Account)
			if err != nil {
				return nil, err
			}
			in.Limit = min(in.Limit, 199)
			items, err := m.Log(ctx, notify.LogFilter{Account: account, Message: in.Message, State: in.State, Channel: in.Channel, After: in.Cursor, Limit: in.Limit + 1})
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(v *notify.Delivery) string { return v.ID }, showDelivery), nil
		})

	handle(s, route{method: http.MethodPost, path: "/deliveries/{id}/resend", id: "resend-delivery", tag: tag, summary: "Send once more", roles: operatorOnly},
		func(ctx context.Context, a Actor, in *ByID) (*none, error) {
			m, err := s.messages()
			if err != nil {
				return nil, err
			}
			if err := m.Resend(ctx, in.ID); err != nil {
				return nil, err
			}
			s.audit(ctx, a, "delivery.resend", slog.String("id", in.ID))
			return nil, nil
		})
}

func showDelivery(v *notify.Delivery) wireDelivery {
	w := wireDelivery{
		ID: v.ID, Message: v.Message, Account: v.Account, Category: v.Category, Channel: v.Channel, Target: v.Target, Subject: v.Subject, State: v.State, Last: v.Last,
		Attempts: []wireAttempt{}, Due: v.Due, Created: v.Created, Done: instant(v.Done),
	}
	for _, t := range v.Attempts {
		w.Attempts = append(w.Attempts, wireAttempt{At: t.At, Took: t.Took.Milliseconds(), OK: t.OK, Code: t.Code, Error: t.Error})
	}
	return w
}

type wireJob struct {
	Name     string     `json:"name"`
	Done     time.Time  `json:"done_until" doc:"The last due instant that is done."`
	Next     *time.Time `json:"next,omitempty"`
	Running  string     `json:"running_on,omitempty" doc:"The process that runs it now."`
	Paused   bool       `json:"paused"`
	Runs     int64      `json:"runs"`
	Failures int64      `json:"failures" doc:"In a row."`
	Error    string     `json:"error,omitempty" doc:"Of the last run."`
	Retry    *time.Time `json:"retry,omitempty" doc:"Not tried before."`
	Finished *time.Time `json:"finished,omitempty"`
}

func (s *Server) registerJobs() {
	const tag = "Jobs"
	handle(s, route{method: http.MethodGet, path: "/jobs", id: "list-jobs", tag: tag, summary: "What runs by the calendar", roles: operatorOnly},
		func(ctx context.Context, _ Actor, _ *none) (*body[list[wireJob]], error) {
			if s.deps.Jobs == nil {
				return nil, ErrUnavailable
			}
			states, err := s.deps.Jobs.States(ctx)
			if err != nil {
				return nil, err
			}
			var items []jobs.State
			for _, st := range states {
				items = append(items, st)
			}
			slices.SortFunc(items, func(a, b jobs.State) int { return cmp.Compare(a.Name, b.Name) })
			return listed(items, "", func(st *jobs.State) wireJob {
				return wireJob{
					Name: st.Name, Done: st.Cursor, Next: instant(st.Next), Running: st.Running, Paused: st.Paused, Runs: st.Runs, Failures: st.Failures,
					Error: st.Error, Retry: instant(st.Retry), Finished: instant(st.Finished),
				}
			}), nil
		})
	for _, action := range []struct {
		name, summary string
		do            func(ctx context.Context, name string) error
	}{
		{"pause", "Stop a job from being run", func(ctx context.Context, name string) error { return s.deps.Jobs.SetPaused(ctx, name, true) }},
		{"resume", "Let a paused job run; it does what it missed", func(ctx context.Context, name string) error { return s.deps.Jobs.SetPaused(ctx, name, false) }},
		{"retry", "Run a failed job without waiting out its pause", func(ctx context.Context, name string) error { return s.deps.Jobs.Retry(ctx, name) }},
	} {
		handle(s, route{method: http.MethodPost, path: "/jobs/{id}/" + action.name, id: action.name + "-job", tag: tag, summary: action.summary, roles: operatorOnly},
			func(ctx context.Context, a Actor, in *ByID) (*none, error) {
				if s.deps.Jobs == nil {
					return nil, ErrUnavailable
				}
				if err := action.do(ctx, in.ID); err != nil {
					return nil, err
				}
				s.audit(ctx, a, "job."+action.name, slog.String("name", in.ID))
				return nil, nil
			})
	}
}
