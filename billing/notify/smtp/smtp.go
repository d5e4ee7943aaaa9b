package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	netmail "net/mail"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"tollgate/billing/notify"
)

// Sender sends mail. It is safe for concurrent use; each mail has a connection
// of its own, so that a server that hangs delays one mail.
type Sender struct {
	host    string
	options []mail.Option
	from    string
	domain  string
}

// Options say which server, and as whom.
type Options struct {
	// URL is smtp://[user:password@]host[:port] with STARTTLS required,
	// smtps:// for TLS from the first byte, or smtp+plain:// without TLS, for a
	// relay on the same host. Ports default to 587, 465 and 25.
	URL string
	// From is the sender's address: "Tollgate <notices@example.com>".
	From string
	// TLS replaces the TLS configuration; nil checks the server's name against
	// the system's roots.
	TLS *tls.Config
	// Timeout of one step of the dialogue. Default 20 s.
	Timeout time.Duration
}

// New returns a Sender. It does not connect.
func New(o Options) (*Sender, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("smtp: the address is not smtp://[user:password@]host[:port]")
	}
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	s := &Sender{host: u.Hostname(), from: o.From}
	from, err := netmail.ParseAddress(o.From)
	if err != nil {
		return nil, fmt.Errorf("smtp: %q is no sender's address: give one as Name <name@example.com>", o.From)
	}
	_, s.domain, _ = strings.Cut(from.Address, "@")
	port := 0
	switch u.Scheme {
	case "smtp":
		port = 587
		s.options = append(s.options, mail.WithTLSPolicy(mail.TLSMandatory))
	case "smtps":
		port = 465
		s.options = append(s.options, mail.WithSSL())
	case "smtp+plain":
		port = 25
		s.options = append(s.options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		return nil, fmt.Errorf("smtp: scheme %q: use smtp, smtps or smtp+plain", u.Scheme)
	}
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil {
			return nil, fmt.Errorf("smtp: port %q", p)
		}
	}
	s.options = append(s.options, mail.WithPort(port), mail.WithTimeout(o.Timeout))
	if o.TLS != nil {
		s.options = append(s.options, mail.WithTLSConfig(o.TLS))
	}
	if u.User != nil {
		password, _ := u.User.Password()
		s.options = append(s.options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(u.User.Username()), mail.WithPassword(password))
	}
	return s, nil
}

// Send sends one mail, plain text. Its Message-ID is made of o.ID, the same on
// every try, because a connection that is cut after the text was sent leaves
// open whether it arrived. Answers 5xx are a *notify.Refusal; 5.1.x and 5.2.1
// say that the address is wrong for good.
func (s *Sender) Send(ctx context.Context, o notify.Outgoing) (string, error) {
	m := mail.NewMsg(mail.WithCharset(mail.CharsetUTF8))
	if err := errors.Join(m.From(s.from), m.To(o.To)); err != nil {
		return "", &notify.Refusal{Code: "address", Gone: true, Err: err}
	}
	m.Subject(o.Subject)
	m.SetMessageIDWithValue(o.ID + "@" + s.domain)
	m.SetDateWithValue(o.At)
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader("Content-Language", o.Language)
	if o.Unsubscribe != "" {
		m.SetGenHeader("List-Unsubscribe", "<"+o.Unsubscribe+">")
		m.SetGenHeader("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
	}
	m.SetBodyString(mail.TypeTextPlain, o.Body)
	c, err := mail.NewClient(s.host, s.options...)
	if err != nil {
		return "", err
	}
	err = c.DialAndSendWithContext(ctx, m)
	if err == nil {
		return "250", nil
	}
	var failed *mail.SendError
	if !errors.As(err, &failed) || failed.ErrorCode() == 0 {
		return "", err
	}
	code := strconv.Itoa(failed.ErrorCode())
	if failed.ErrorCode()/100 != 5 {
		return code, err
	}
	status := failed.EnhancedStatusCode()
	gone := failed.Reason == mail.ErrSMTPRcptTo && (status == "" || len(status) >= 4 && (status[:4] == "5.1." || status == "5.2.1"))
	return code, &notify.Refusal{Code: code, Gone: gone, Err: err}
}
