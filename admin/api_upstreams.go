package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/feed"
)

const (
	// statusAge is how long a gateway's last report counts.
	statusAge = 30 * time.Second
	// maxStatusBody bounds a report, maxStatusNodes the gateways that are kept.
	maxStatusBody  = 4 << 20
	maxStatusNodes = 1024
)

// nodeStatuses keeps the gateways' last reports, in memory: they say what is now.
type nodeStatuses struct {
	mu sync.Mutex
	by map[string]directory.NodeStatus
}

func (n *nodeStatuses) put(st directory.NodeStatus, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		n.by = make(map[string]directory.NodeStatus)
	}
	for name, o := range n.by {
		if now.Sub(o.At) > statusAge {
			delete(n.by, name)
		}
	}
	if _, known := n.by[st.Node]; known || len(n.by) < maxStatusNodes {
		st.At = now // of this process's clock
		n.by[st.Node] = st
	}
}

func (n *nodeStatuses) list(now time.Time) (out []directory.NodeStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, st := range n.by {
		if now.Sub(st.At) <= statusAge {
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b directory.NodeStatus) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// NodeStatuses returns the gateways' last reports, of those that still report.
func (s *Server) NodeStatuses() []directory.NodeStatus { return s.statuses.list(s.now()) }

// ReportUpstreams takes what a gateway knows of its upstreams.
func (s *Server) ReportUpstreams(st directory.NodeStatus) { s.statuses.put(st, s.now()) }

// feedStatus takes it from a gateway in another process.
func (s *Server) feedStatus(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxStatusBody))
	if err != nil {
		status := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			status = http.StatusRequestEntityTooLarge
		}
		s.writeProblem(w, statusProblem(r.Context(), status, "the report could not be read"))
		return
	}
	if err := feed.Verify(r, body, s.cfg.FeedSecret, s.now()); err != nil {
		s.writeProblem(w, s.problem(r.Context(), err))
		return
	}
	var st directory.NodeStatus
	if err := json.Unmarshal(body, &st); err != nil || st.Node == "" {
		s.writeProblem(w, statusProblem(r.Context(), http.StatusBadRequest, "the report is not one: it needs a node"))
		return
	}
	s.ReportUpstreams(st)
	w.WriteHeader(http.StatusNoContent)
}

type wireUpstreamStatus struct {
	Node string    `json:"node" doc:"The gateway that tells."`
	At   time.Time `json:"at"`
	directory.UpstreamStatus
}

func (s *Server) registerUpstreams() {
	handle(s, route{method: http.MethodGet, path: "/upstreams", id: "list-upstreams", tag: "Products", summary: "Health of the upstreams, as each gateway that reported within the last 30 s sees it; those never called since it began and with nothing wrong are left out", roles: sellerSide},
		func(ctx context.Context, a Actor, in *struct {
			Product string `query:"product_id" maxLength:"64" doc:"Only those of this product."`
		},
		) (*body[list[wireUpstreamStatus]], error) {
			own := map[string]bool{}
			if a.Role != RoleOperator {
				ids, err := all(ctx, s.db, func(r scanner) (id string, err error) {
					err = r.Scan(&id)
					return id, err
				}, "SELECT id FROM admin_products WHERE seller = $1", a.Account)
				if err != nil {
					return nil, err
				}
				for _, id := range ids {
					own[id] = true
				}
			}
			items := []wireUpstreamStatus{}
			for _, n := range s.statuses.list(s.now()) {
				for _, u := range n.Upstreams {
					if (in.Product == "" || in.Product == u.Product) && (a.Role == RoleOperator || own[u.Product]) {
						items = append(items, wireUpstreamStatus{n.Node, n.At, u})
					}
				}
			}
			return &body[list[wireUpstreamStatus]]{Body: list[wireUpstreamStatus]{Items: items}}, nil
		})
}
