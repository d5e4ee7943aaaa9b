package smtp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	server "github.com/emersion/go-smtp"

	"tollgate/billing/notify"
)

// received is one mail as the server got it.
type received struct {
	from, to, user string
	secure         bool
	message        *mail.Message
	body           string
}

// backend is a real SMTP server's behaviour.
type backend struct {
	mu    sync.Mutex
	mails []received
	rcpt  func(to string) error
	data  func() error // after the text was received
}

func (b *backend) NewSession(c *server.Conn) (server.Session, error) {
	_, secure := c.TLSConnectionState()
	return &session{b: b, mail: received{secure: secure}}, nil
}

type session struct {
	b    *backend
	mail received
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "tollgate" || password != "right" {
			return server.ErrAuthFailed
		}
		s.mail.user = user
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *server.MailOptions) error { s.mail.from = from; return nil }

func (s *session) Rcpt(to string, _ *server.RcptOptions) error {
	if s.b.rcpt != nil {
		if err := s.b.rcpt(to); err != nil {
			return err
		}
	}
	s.mail.to = to
	return nil
}

func (s *session) Data(r io.Reader) error {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return err
	}
	var body io.Reader = m.Body
	if strings.EqualFold(m.Header.Get("Content-Transfer-Encoding"), "quoted-printable") {
		body = quotedprintable.NewReader(m.Body)
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	s.mail.message, s.mail.body = m, string(text)
	s.b.mu.Lock()
	s.b.mails = append(s.b.mails, s.mail)
	after := s.b.data
	s.b.mu.Unlock()
	if after != nil {
		return after()
	}
	return nil
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func (b *backend) all() []received {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]received(nil), b.mails...)
}

// certificate returns a server's certificate and the client's trust in it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// serve runs a server with STARTTLS unless plain, and returns its address.
func serve(t *testing.T, b *backend, plain bool) (address string, trust *tls.Config) {
	t.Helper()
	cert, pool := certificate(t)
	s := server.NewServer(b)
	s.Domain, s.AllowInsecureAuth = "mail.test", plain
	s.ReadTimeout, s.WriteTimeout = 10*time.Second, 10*time.Second
	if !plain {
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return ln.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

func sender(t *testing.T, url string, trust *tls.Config) *Sender {
	t.Helper()
	s, err := New(Options{URL: url, From: "Tollgate 通知 <notices@tollgate.test>", TLS: trust, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func letter() notify.Outgoing {
	return notify.Outgoing{
		ID: "01JDELIVERY", To: "fang@example.com", Language: "zh", At: time.Date(2026, 11, 30, 18, 30, 15, 0, time.UTC),
		Subject: "余量 20%：天气 API 剩 2,000 次", Body: "您的套餐“天气 API”余量已达到 20%。\n" + strings.Repeat("很长的一行", 60) + "\n.\n完", Unsubscribe: "https://console.test/unsubscribe?token=x",
	}
}

// A Chinese mail arrives over STARTTLS with a login, whole, with the headers of
// RFC 8058 and the Message-ID that every try has.
func TestMailArrives(t *testing.T) {
	t.Parallel()
	b := &backend{}
	address, trust := serve(t, b, false)
	s := sender(t, "smtp://tollgate:right@"+address, trust)
	for range 2 {
		if code, err := s.Send(t.Context(), letter()); err != nil || code != "250" {
			t.Fatal(code, err)
		}
	}
	got := b.all()
	if len(got) != 2 || !got[0].secure || got[0].user != "tollgate" || got[0].from != "notices@tollgate.test" || got[0].to != "fang@example.com" {
		t.Fatalf("%+v", got)
	}
	h := got[0].message.Header
	subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	if err != nil || subject != letter().Subject {
		t.Errorf("subject %q, %v", subject, err)
	}
	if body := strings.ReplaceAll(got[0].body, "\r\n", "\n"); strings.TrimRight(body, "\n") != letter().Body {
		t.Errorf("body %q", body)
	}
	for name, want := range map[string]string{
		"Message-Id": "<01JDELIVERY@tollgate.test>", "List-Unsubscribe": "<https://console.test/unsubscribe?token=x>",
		"List-Unsubscribe-Post": "List-Unsubscribe=One-Click", "Auto-Submitted": "auto-generated", "Date": "Mon, 30 Nov 2026 18:30:15 +0000",
	} {
		if h.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, h.Get(name), want)
		}
	}
	if got[1].message.Header.Get("Message-Id") != h.Get("Message-Id") {
		t.Error("the second try has another Message-ID")
	}
}

// No password and no text goes over a connection that is not encrypted, or to a
// server nobody vouches for.
func TestTLSIsRequired(t *testing.T) {
	t.Parallel()
	b := &backend{}
	plain, _ := serve(t, b, true)
	if _, err := sender(t, "smtp://tollgate:right@"+plain, nil).Send(t.Context(), letter()); err == nil {
		t.Error("sent without STARTTLS")
	}
	secure, _ := serve(t, b, false)
	if _, err := sender(t, "smtp://tollgate:right@"+secure, nil).Send(t.Context(), letter()); err == nil {
		t.Error("sent to a certificate nobody vouches for")
	}
	if len(b.all()) != 0 {
		t.Error("something arrived")
	}
	if _, err := sender(t, "smtp+plain://"+plain, nil).Send(t.Context(), letter()); err != nil || len(b.all()) != 1 {
		t.Errorf("a relay on the same host, as asked for: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	code := func(n int, a, b, c int) error {
		return &server.SMTPError{Code: n, EnhancedCode: server.EnhancedCode{a, b, c}, Message: "no"}
	}
	for _, tt := range []struct {
		name         string
		rcpt, data   error
		login        string
		code         string
		refuse, gone bool
	}{
		{name: "unknown user", rcpt: code(550, 5, 1, 1), code: "550", refuse: true, gone: true},
		{name: "mailbox disabled", rcpt: code(550, 5, 2, 1), code: "550", refuse: true, gone: true},
		{name: "mailbox full for good", rcpt: code(552, 5, 2, 2), code: "552", refuse: true},
		{name: "policy", data: code(554, 5, 7, 1), code: "554", refuse: true},
		{name: "greylisted", rcpt: code(451, 4, 7, 1), code: "451"},
		{name: "busy", data: code(421, 4, 3, 2), code: "421"},
		{name: "wrong password", login: "tollgate:wrong@"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := &backend{rcpt: func(string) error { return tt.rcpt }, data: func() error { return tt.data }}
			address, trust := serve(t, b, false)
			if tt.login == "" {
				tt.login = "tollgate:right@"
			}
			got, err := sender(t, "smtp://"+tt.login+address, trust).Send(t.Context(), letter())
			var refusal *notify.Refusal
			if err == nil || errors.As(err, &refusal) != tt.refuse || got != tt.code {
				t.Fatalf("%q, %v", got, err)
			}
			if tt.refuse && refusal.Gone != tt.gone {
				t.Errorf("the address is taken as gone: %v", refusal.Gone)
			}
		})
	}
}

// A connection that is cut after the text leaves open whether it arrived: it is
// an error that is tried again.
func TestCutAfterData(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go cutter(c)
		}
	}()
	_, err = sender(t, "smtp+plain://"+ln.Addr().String(), nil).Send(t.Context(), letter())
	var refusal *notify.Refusal
	if err == nil || errors.As(err, &refusal) {
		t.Fatalf("%v", err)
	}
}

// cutter speaks SMTP up to the end of the text and hangs up.
func cutter(c net.Conn) {
	defer c.Close()
	answer := func(text string) { io.WriteString(c, text+"\r\n") }
	answer("220 mail.test")
	buf, text := make([]byte, 4096), ""
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		text += string(buf[:n])
		switch {
		case strings.HasSuffix(text, "\r\n.\r\n"):
			return
		case strings.HasSuffix(text, "DATA\r\n"):
			answer("354 go on")
		case strings.HasPrefix(text, "EHLO"), strings.HasPrefix(text, "MAIL"), strings.HasPrefix(text, "RCPT"), strings.HasPrefix(text, "NOOP"), strings.HasPrefix(text, "RSET"):
			answer("250 ok")
			text = ""
		}
	}
}

// A server that says nothing costs its time-out, not more.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	s, err := New(Options{URL: "smtp+plain://" + ln.Addr().String(), From: "a@example.com", Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send(t.Context(), letter()); err == nil {
		t.Error("no error")
	}
}

func TestHeadersCannotBeInjected(t *testing.T) {
	t.Parallel()
	b := &backend{}
	address, _ := serve(t, b, true)
	o := letter()
	o.Subject = "hello\r\nBcc: everybody@example.com"
	if _, err := sender(t, "smtp+plain://"+address, nil).Send(t.Context(), o); err != nil {
		t.Error(err)
	}
	for _, m := range b.all() {
		if m.message.Header.Get("Bcc") != "" {
			t.Errorf("a header slipped in: %v", m.message.Header)
		}
	}
	o = letter()
	o.To = "a@example.com\r\nRCPT TO:<b@example.com>"
	var refusal *notify.Refusal
	if _, err := sender(t, "smtp+plain://"+address, nil).Send(t.Context(), o); !errors.As(err, &refusal) {
		t.Errorf("a broken address: %v", err)
	}
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{URL: "", From: "a@b.c"}, {URL: "http://x", From: "a@b.c"}, {URL: "smtp://x", From: "nobody"}, {URL: "smtp://", From: "a@b.c"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
