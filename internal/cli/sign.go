package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"tollgate/internal/apisign"
)

// Sign is `tollgate sign`: it signs one request with an AppKey and AppSecret
// and prints what has to be sent. It sends nothing itself.
type Sign struct {
	AppKey          string   `name:"app-key" env:"TOLLGATE_APP_KEY" placeholder:"KEY" help:"AppKey, or file:PATH to read it from a file."`
	AppSecret       string   `name:"app-secret" env:"TOLLGATE_APP_SECRET" placeholder:"SECRET" help:"AppSecret, or file:PATH. A secret given here can be seen by every user of the machine; prefer the environment or a file."`
	Method          string   `short:"X" placeholder:"METHOD" help:"Request method; GET by default, POST with --data."`
	Header          []string `short:"H" sep:"none" placeholder:"NAME: VALUE" help:"Header to send and to sign; may be repeated."`
	Data            *string  `short:"d" placeholder:"DATA" help:"Request body; @FILE reads it from a file, @- from standard input."`
	Date            string   `placeholder:"YYYYMMDDTHHMMSSZ" help:"Sign for this time (UTC) instead of now."`
	UnsignedPayload bool     `help:"Leave the body out of the signature."`
	Demo            string   `placeholder:"FILE" help:"Take key, secret and URL from the demo.json that serve --demo wrote."`
	Format          string   `enum:"curl,headers" default:"curl" help:"What to print: curl, a command line to paste, or headers, one per line."`
	URL             string   `arg:"" optional:"" name:"url" help:"The URL to call. With --demo: a path below the demo API, or nothing."`
}

// Run signs and prints. kong gives it the context.
func (c *Sign) Run(k *kong.Context) error {
	return c.run(k.Stdout, os.Stdin, time.Now)
}

func (c *Sign) run(out io.Writer, in io.Reader, now func() time.Time) error {
	key, secret, target, err := c.credentials()
	if err != nil {
		return err
	}
	body, err := c.body(in)
	if err != nil {
		return err
	}
	req, err := c.request(target, body)
	if err != nil {
		return err
	}
	if c.Date != "" {
		if _, err := time.Parse(apisign.DateLayout, c.Date); err != nil {
			return fmt.Errorf("--date %s: use the form %s, in UTC", c.Date, apisign.DateLayout)
		}
		req.Header.Set(apisign.HeaderDate, c.Date)
	}
	s := apisign.Signer{Key: key, Secret: secret, Now: now, UnsignedPayload: c.UnsignedPayload}
	if err := s.Sign(req); err != nil {
		return err
	}
	if c.Format == "headers" {
		return c.printHeaders(out, req)
	}
	return c.printCurl(out, req, body)
}

// credentials returns the AppKey, the AppSecret and the URL to sign.
func (c *Sign) credentials() (key, secret, target string, err error) {
	key, secret, target = c.AppKey, c.AppSecret, c.URL
	if c.Demo != "" {
		d, err := readSignDemo(c.Demo)
		if err != nil {
			return "", "", "", err
		}
		if key == "" {
			key = d.API.AppKey
		}
		if secret == "" {
			secret = d.API.AppSecret
		}
		switch {
		case target == "":
			target = d.API.URL
		case strings.HasPrefix(target, "/") || strings.HasPrefix(target, "?"):
			target = d.API.URL + target
		}
	}
	if key, err = secretFrom("--app-key", key); err != nil {
		return "", "", "", err
	}
	if secret, err = secretFrom("--app-secret", secret); err != nil {
		return "", "", "", err
	}
	switch {
	case key == "":
		return "", "", "", errors.New("no AppKey: give --app-key, TOLLGATE_APP_KEY or --demo demo.json")
	case secret == "":
		return "", "", "", errors.New("no AppSecret: give TOLLGATE_APP_SECRET, --app-secret file:PATH or --demo demo.json")
	case target == "":
		return "", "", "", errors.New("no URL: give the URL to call, such as https://gateway.example.com/weather?city=Bonn")
	}
	return key, secret, target, nil
}

// signDemo is the part of demo.json that sign reads (design section 5).
type signDemo struct {
	API struct {
		URL       string `json:"url"`
		AppKey    string `json:"app_key"`
		AppSecret string `json:"app_secret"`
	} `json:"api"`
}

func readSignDemo(path string) (d signDemo, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return d, fmt.Errorf("%w: start the demo first with tollgate serve --demo", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("%s: %w: give the demo.json that tollgate serve --demo wrote", path, err)
	}
	if d.API.AppKey == "" || d.API.AppSecret == "" {
		return d, fmt.Errorf("%s: holds no api.app_key and api.app_secret: give the demo.json that tollgate serve --demo wrote", path)
	}
	return d, nil
}

// secretFrom resolves the file:PATH form. One line break at the end of the file
// is not part of the value.
func secretFrom(flag, value string) (string, error) {
	path, ok := strings.CutPrefix(value, "file:")
	if !ok {
		return value, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	value = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("%s: %s is empty", flag, path)
	}
	return value, nil
}

// body returns the request body, nil when there is none.
func (c *Sign) body(in io.Reader) ([]byte, error) {
	if c.Data == nil {
		return nil, nil
	}
	name, ok := strings.CutPrefix(*c.Data, "@")
	if !ok {
		return []byte(*c.Data), nil
	}
	var b []byte
	var err error
	if name == "-" {
		b, err = io.ReadAll(in)
	} else {
		b, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("--data: %w", err)
	}
	return b, nil
}

// request makes the request that is signed: exactly the one the printed curl
// line sends.
func (c *Sign) request(target string, body []byte) (*http.Request, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("url %s: must begin with http:// or https:// and name a host", target)
	}
	u.Fragment, u.User = "", nil
	u.RawQuery = escapeRawQuery(u.RawQuery)
	if u.Path == "" {
		u.Path = "/"
	}
	method := strings.ToUpper(c.Method)
	if method == "" {
		method = http.MethodGet
		if c.Data != nil {
			method = http.MethodPost
		}
	}
	if method == http.MethodHead && c.Data != nil {
		return nil, errors.New("a HEAD request has no body: leave --data away or give another -X")
	}
	req, err := http.NewRequest(method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, h := range c.Header {
		name, value, ok := strings.Cut(h, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || value == "" || strings.ContainsAny(h, "\r\n") {
			return nil, fmt.Errorf("-H %q: use the form 'Name: value'", h)
		}
		switch textproto.CanonicalMIMEHeaderKey(name) {
		case "Host":
			req.Host = value
		case apisign.HeaderAuthorization, apisign.HeaderDate, apisign.HeaderContentSHA256:
			return nil, fmt.Errorf("-H %q: the signature sets this header; use --date or --unsigned-payload", h)
		default:
			req.Header.Add(name, value)
		}
	}
	if c.Data != nil && req.Header.Get("Content-Type") == "" {
		// Otherwise curl would say that it sends a form.
		contentType := "application/octet-stream"
		if json.Valid(body) {
			contentType = "application/json"
		}
		req.Header.Set("Content-Type", contentType)
	}
	return req, nil
}

// escapeRawQuery escapes what may not stand in a request line; everything else
// stays as it was written.
func escapeRawQuery(q string) string {
	var b strings.Builder
	for i := range len(q) {
		if c := q[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>\\^`{|}", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// signedHeaderLines returns the headers to send, the signature's own at the end.
func signedHeaderLines(req *http.Request) []string {
	last := []string{apisign.HeaderContentSHA256, apisign.HeaderDate, apisign.HeaderAuthorization}
	var lines []string
	if req.Host != "" && req.Host != req.URL.Host {
		lines = append(lines, "Host: "+req.Host)
	}
	for _, name := range slices.Sorted(maps.Keys(req.Header)) {
		if !slices.Contains(last, name) {
			for _, v := range req.Header[name] {
				lines = append(lines, name+": "+v)
			}
		}
	}
	for _, name := range last {
		if v := req.Header.Get(name); v != "" {
			lines = append(lines, name+": "+v)
		}
	}
	return lines
}

func (c *Sign) printHeaders(out io.Writer, req *http.Request) error {
	_, err := fmt.Fprintln(out, strings.Join(signedHeaderLines(req), "\n"))
	return err
}

func (c *Sign) printCurl(out io.Writer, req *http.Request, body []byte) error {
	args := []string{"curl"}
	switch {
	case req.Method == http.MethodHead:
		args = append(args, "--head")
	case req.Method == http.MethodGet && c.Data == nil, req.Method == http.MethodPost && c.Data != nil:
	default:
		args = append(args, "-X", shellQuote(req.Method))
	}
	if strings.ContainsAny(req.URL.String(), "[]{}") {
		args = append(args, "--globoff")
	}
	if strings.Contains(req.URL.EscapedPath(), "/.") {
		args = append(args, "--path-as-is") // or curl resolves dot segments that were signed
	}
	for _, line := range signedHeaderLines(req) {
		args = append(args, "-H", shellQuote(line))
	}
	if c.Data != nil {
		switch name, isFile := strings.CutPrefix(*c.Data, "@"); {
		case isFile && name != "-":
			args = append(args, "--data-binary", shellQuote("@"+name))
		case bytes.IndexByte(body, 0) >= 0:
			return errors.New("the body holds a zero byte, which no command line can carry: put it in a file and give --data @FILE")
		default:
			args = append(args, "--data-raw", shellQuote(string(body)))
		}
	}
	args = append(args, shellQuote(req.URL.String()))
	_, err := fmt.Fprintln(out, strings.Join(args, " "))
	return err
}

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%+,-./:=@_"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
