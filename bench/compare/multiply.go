package compare

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tollgate/bench"
	"tollgate/internal/directory"
	"tollgate/internal/feed"
)

// spreadPrefix begins every API key a multiplied directory holds; its number
// follows.
const spreadPrefix = "sk-scale-of-the-directory-0000000000000"

// multiplier stands between a gateway and its admin role: it serves the admin
// role's own directory with credentials and products added to it, sealed and
// proven as the real feed does, and hands everything else on.
type multiplier struct {
	addr  string
	files http.Handler
	stop  func() error

	snap *directory.Snapshot // what was sealed last
	next []byte              // its sealed form, until it is released

	mu      sync.Mutex
	sealed  []byte
	version int64
	changed chan struct{} // closed when sealed is replaced
}

// multiply takes the admin role's directory and serves it with so many API keys
// of the demo's buyer and so many products.
func multiply(ctx context.Context, admin *world, keys, products int) (*multiplier, error) {
	source, err := feed.NewSource(feed.Config{AdminURL: "http://" + admin.api, Secret: feedSecret})
	if err != nil {
		return nil, err
	}
	s, err := source.Next(ctx, 0)
	if err != nil {
		return nil, err
	}
	if s, err = multiplied(s, admin.demo, keys, products); err != nil {
		return nil, err
	}
	to, err := url.Parse("http://" + admin.api)
	if err != nil {
		return nil, err
	}
	m := &multiplier{snap: s, changed: make(chan struct{}), files: httputil.NewSingleHostReverseProxy(to)}
	if err := m.seal(); err != nil {
		return nil, err
	}
	m.release()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m.addr = ln.Addr().String()
	server := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(ln) }() // it ends with stop
	m.stop = server.Close
	return m, nil
}

// multiplied returns s with the rows added.
func multiplied(s *directory.Snapshot, d bench.Demo, keys, products int) (*directory.Snapshot, error) {
	buyer := ""
	var model *directory.Product
	for i := range s.Subscriptions {
		if s.Subscriptions[i].ID == d.LLM.SubscriptionID {
			buyer = s.Subscriptions[i].Account
			for j := range s.Products {
				if s.Products[j].ID == s.Subscriptions[i].Product {
					model = &s.Products[j]
				}
			}
		}
	}
	if model == nil || len(s.APIKeys) == 0 {
		return nil, errors.New("the admin role's directory does not hold the demo's product and key")
	}
	out := *s
	out.APIKeys = slices.Grow(slices.Clone(s.APIKeys), keys)
	mac := hmac.New(sha256.New, s.Pepper)
	text := []byte(spreadPrefix)
	for i := range keys {
		text = bench.AppendSpread(text[:len(spreadPrefix)], int64(i))
		mac.Reset()
		mac.Write(text)
		out.APIKeys = append(out.APIKeys, directory.APIKey{ID: fmt.Sprintf("scale-key-%08d", i), Account: buyer, Hash: mac.Sum(nil)})
	}
	out.Products = slices.Clone(s.Products)
	for i := len(s.Products); i < products; i++ {
		p := *model
		n := strconv.Itoa(i)
		p.ID, p.InferID, p.Name = p.ID+"-"+n, p.InferID+"-"+n, p.Name+" "+n
		out.Products = append(out.Products, p)
	}
	return &out, nil
}

// seal seals the directory under the next version.
func (m *multiplier) seal() (err error) {
	m.snap.Version++
	m.next, err = directory.Seal(m.snap, feedSecret)
	return err
}

// release lets gateways have what was sealed; those that wait take it at once.
func (m *multiplier) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed, m.version, m.next = m.next, m.snap.Version, nil
	close(m.changed)
	m.changed = make(chan struct{})
}

// ServeHTTP answers a gateway as the admin role would.
func (m *multiplier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != feed.DirectoryPath {
		m.files.ServeHTTP(w, r)
		return
	}
	if err := feed.Verify(r, nil, feedSecret, time.Now()); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
	if err != nil {
		http.Error(w, "since: give a version", http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	sealed, version, changed := m.sealed, m.version, m.changed
	m.mu.Unlock()
	if version == since {
		select {
		case <-changed:
		case <-time.After(feed.MaxPoll):
		case <-r.Context().Done():
		}
		m.mu.Lock()
		sealed, version = m.sealed, m.version
		m.mu.Unlock()
	}
	if version == since {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set(feed.VersionHeader, strconv.FormatInt(version, 10))
	w.Header().Set("Content-Length", strconv.Itoa(len(sealed)))
	_, _ = w.Write(sealed) // a gateway that left asks again
}

// at waits until the gateway has the newest directory in force.
func (m *multiplier) at(ctx context.Context, w *world) error {
	m.mu.Lock()
	want := "tollgate_directory_version " + strconv.FormatFloat(float64(m.version), 'g', -1, 64) + "\n"
	m.mu.Unlock()
	return w.proc.ready(ctx, func(ctx context.Context) error {
		text, err := fetch(ctx, "http://"+w.admin+"/metrics", "")
		if err == nil && !strings.Contains(text, want) {
			err = errors.New("the new directory is not in force")
		}
		return err
	})
}
