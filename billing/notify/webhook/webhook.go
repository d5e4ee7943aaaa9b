package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tollgate/billing/notify"
)

// ErrAddress says that an endpoint leads into a network it must not reach.
var ErrAddress = errors.New("webhook: the endpoint has a private, loopback, link-local or reserved address")

// Sender posts to the endpoint each message names, with the secrets it names.
// It is safe for concurrent use.
type Sender struct{ client *http.Client }

// Options of a Sender.
type Options struct {
	// AllowPrivate lets endpoints have private and loopback addresses: for
	// installations whose buyers sit in the same network. Metadata and other
	// link-local addresses stay refused.
	AllowPrivate bool
	// Timeout of one request. Default 15 s.
	Timeout time.Duration
}

// New returns a Sender. The address that is dialled is the one that was
// checked, so a name that resolves anew cannot slip by; redirects are not
// followed; proxies of the environment are not used.
func New(o Options) *Sender {
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Second
	}
	d := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !allowed(at.Addr().Unmap(), o.AllowPrivate) {
			return ErrAddress
		}
		return nil
	}}
	return &Sender{client: &http.Client{
		Timeout:       o.Timeout,
		Transport:     &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 5 * time.Second, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// reserved are ranges that are neither private nor public.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"),
}

func allowed(a netip.Addr, private bool) bool {
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast():
		return false
	case a.IsPrivate(), a.IsLoopback():
		return private
	}
	for _, p := range reserved {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// Send posts o.Payload to o.To. A status of 410 is a *notify.Refusal; 429, 502,
// 503 and 504 with Retry-After are a *notify.Delay; anything but 2xx, redirects
// too, is an error.
func (s *Sender) Send(ctx context.Context, o notify.Outgoing) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.To, bytes.NewReader(o.Payload))
	if err != nil {
		return "", &notify.Refusal{Code: "address", Gone: true, Err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Tollgate-Webhooks/1")
	if err := Sign(req.Header, o.ID, o.At, o.Payload, o.Secrets); err != nil {
		return "", err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	code := strconv.Itoa(resp.StatusCode)
	switch {
	case resp.StatusCode/100 == 2:
		return code, nil
	case resp.StatusCode == http.StatusGone:
		return code, &notify.Refusal{Code: code, Gone: true, Err: errors.New("webhook: the endpoint answered 410: it wants no more")}
	}
	err = fmt.Errorf("webhook: the endpoint answered %s", resp.Status)
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if after := retryAfter(resp.Header.Get("Retry-After"), o.At); after > 0 {
			return code, &notify.Delay{After: after, Err: err}
		}
	}
	return code, err
}

// retryAfter reads a number of seconds or a date (RFC 9110 section 10.2.3).
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < 1<<31 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return at.Sub(now)
	}
	return 0
}

// Sign sets the headers of Standard Webhooks: webhook-id, webhook-timestamp
// and webhook-signature, one "v1," signature for each secret ("whsec_" and
// base64), newest first.
func Sign(h http.Header, id string, at time.Time, body []byte, secrets []string) error {
	stamp := strconv.FormatInt(at.Unix(), 10)
	var signatures []string
	for _, secret := range secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || len(key) < 24 {
			return errors.New("webhook: a secret is whsec_ and base64 of at least 24 bytes")
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if len(signatures) == 0 {
		return errors.New("webhook: no secret to sign with")
	}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", strings.Join(signatures, " "))
	return nil
}

// Port sends text messages or voice calls through the operator's provider: a
// signed POST of {"id","channel","to","language","text"} to one URL.
type Port struct {
	sender  *Sender
	channel notify.Channel
	url     string
	secret  string
}

// NewPort returns a Sender for one channel. The URL is the operator's own, so
// private addresses are allowed.
func NewPort(channel notify.Channel, url, secret string, timeout time.Duration) *Port {
	return &Port{sender: New(Options{AllowPrivate: true, Timeout: timeout}), channel: channel, url: url, secret: secret}
}

// Send implements notify.Sender.
func (p *Port) Send(ctx context.Context, o notify.Outgoing) (string, error) {
	payload, err := json.Marshal(struct {
		ID       string         `json:"id"`
		Channel  notify.Channel `json:"channel"`
		To       string         `json:"to"`
		Language string         `json:"language"`
		Text     string         `json:"text"`
	}{o.ID, p.channel, o.To, o.Language, o.Subject})
	if err != nil {
		return "", err
	}
	o.To, o.Payload, o.Secrets = p.url, payload, []string{p.secret}
	return p.sender.Send(ctx, o)
}
