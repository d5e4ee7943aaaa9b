package app

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

// onReload has f called on SIGHUP and SIGUSR1. Its error is logged: what was in
// use stays so.
func (a *App) onReload(f func() error) { a.reloads = append(a.reloads, f) }

// reload does what SIGHUP asks for.
func (a *App) reload() {
	for _, f := range a.reloads {
		if err := f(); err != nil {
			a.log.Error("reload", "error", err)
		}
	}
}

// watchSignals calls reload on each SIGHUP and SIGUSR1, until ctx ends.
func (a *App) watchSignals(ctx context.Context) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1)
	a.work.Go(func() {
		defer signal.Stop(c)
		for {
			select {
			case <-c:
				a.log.Info("reloading certificate and access log")
				a.reload()
			case <-ctx.Done():
				return
			}
		}
	})
}

// keyPair is the certificate of the https port, which can be replaced while it
// serves. A file that does not load leaves the old one in use.
type keyPair struct {
	cert, key string
	current   atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	seen [32]byte // of both files' contents, as last looked at
}

// load reads both files, when they changed. A pair that does not belong together
// is refused, so that a change of two files takes effect when both are there.
func (p *keyPair) load() (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cert, err := os.ReadFile(p.cert)
	if err != nil {
		return false, err
	}
	key, err := os.ReadFile(p.key)
	if err != nil {
		return false, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d ", len(cert))
	h.Write(cert)
	h.Write(key)
	seen := [32]byte(h.Sum(nil))
	if seen == p.seen {
		return false, nil
	}
	p.seen = seen
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, err
	}
	p.current.Store(&pair)
	return true, nil
}

// get is tls.Config.GetCertificate.
func (p *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current.Load(), nil }

// certificateLook is how often the certificate's files are looked at. Looking
// also finds files swapped by renaming a folder, as Kubernetes does, which
// watches on a file do not.
const certificateLook = 5 * time.Second

// watchCertificate takes changed files into use, until ctx ends.
func (a *App) watchCertificate(ctx context.Context, p *keyPair) {
	look := func() error {
		changed, err := p.load()
		if err != nil {
			a.certFailures.Add(1)
			return fmt.Errorf("the old certificate stays in use: %w", err)
		}
		if changed {
			a.log.Info("a new certificate is in use", "not_after", p.current.Load().Leaf.NotAfter)
		}
		return nil
	}
	a.onReload(look)
	a.work.Go(func() {
		t := time.NewTicker(certificateLook)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if err := look(); err != nil {
					a.log.Error("certificate", "error", err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
}

// behindBalancers lets connections from the configured networks begin with a
// PROXY header. From anywhere else that is no valid request.
func (a *App) behindBalancers(ln net.Listener) (net.Listener, error) {
	trusted, err := networks(a.cfg.Gateway.ProxyProtocol)
	if err != nil || len(trusted) == 0 {
		return ln, err
	}
	return &proxyproto.Listener{
		Listener:          ln,
		ReadHeaderTimeout: a.cfg.Gateway.HeaderTimeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if tcp, ok := o.Upstream.(*net.TCPAddr); ok {
				for _, p := range trusted {
					if p.Contains(tcp.AddrPort().Addr().Unmap()) {
						return proxyproto.USE, nil
					}
				}
			}
			return proxyproto.SKIP, nil
		},
	}, nil
}
