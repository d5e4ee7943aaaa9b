package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"tollgate/internal/app"
	"tollgate/internal/report"
)

// Report is `tollgate report`.
type Report struct {
	Usage ReportUsage `cmd:"" help:"Write what was used as one HTML file with charts, asked of a running Tollgate."`
}

// ReportUsage is `tollgate report usage`. It shows what the token's owner may
// see: a buyer their own calls, a seller their products', an operator all.
type ReportUsage struct {
	Settings
	Token        string   `env:"TOLLGATE_TOKEN" placeholder:"TOKEN" help:"Token of an operator, a seller or a buyer, or file:PATH; by default the operator's in the data folder."`
	From         string   `placeholder:"TIME" help:"Not before: a day such as 2026-11-01, or RFC 3339. By default 30 days before --to."`
	To           string   `placeholder:"TIME" help:"Before; a day is meant to its end. By default now."`
	Subscription []string `placeholder:"ID" help:"Only this one; may be repeated."`
	Zone         string   `default:"Asia/Shanghai" placeholder:"ZONE" help:"Time zone by whose clock days begin; Asia/Shanghai by default."`
	Lang         string   `enum:"en,zh" default:"en" help:"Language: en or zh."`
	Out          string   `default:"-" placeholder:"FILE" help:"Where to write; standard output by default."`
}

// reportGroups are the tables behind the days.
var reportGroups = []string{"model", "api", "key", "status", "subscription", "basis"}

// reportTop is how many groups a table names.
const reportTop = 20

// Run asks for the figures and writes the file.
func (c *ReportUsage) Run(ctx context.Context, s Streams) error {
	r, err := c.collect(ctx, time.Now())
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := report.Write(&b, r); err != nil {
		return err
	}
	if c.Out == "-" {
		_, err = s.Out.Write(b.Bytes())
		return err
	}
	if err := os.WriteFile(c.Out, b.Bytes(), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(s.Err, "The report is in %s.\n", c.Out)
	return nil
}

func (c *ReportUsage) collect(ctx context.Context, now time.Time) (*report.Report, error) {
	// As a setting, the address is a gateway's; here it only says whom to ask.
	settings := c.Settings
	settings.AdminURL = ""
	cfg, err := settings.load()
	if err != nil {
		return nil, err
	}
	base, token := app.Operator(cfg)
	if c.AdminURL != "" {
		base = strings.TrimRight(c.AdminURL, "/")
	}
	if c.Token != "" {
		if token, err = secretFrom("--token", c.Token); err != nil {
			return nil, err
		}
	}
	if token == "" {
		return nil, fmt.Errorf("no token to ask %s with: give --token, TOLLGATE_TOKEN or the --data of a program that runs", base)
	}
	r := &report.Report{Language: c.Lang, Zone: c.Zone, Made: now, Subscriptions: c.Subscription}
	if r.From, r.To, err = c.times(now); err != nil {
		return nil, err
	}
	q := url.Values{"from": {r.From.Format(time.RFC3339)}, "to": {r.To.Format(time.RFC3339)}, "subscription_id": c.Subscription}
	ask := func(group string) (f report.Figures, err error) {
		q.Set("group_by", group)
		if group == "day" {
			q.Set("zone", c.Zone)
		} else {
			q.Del("zone")
			q.Set("top", fmt.Sprint(reportTop))
		}
		err = getJSON(ctx, base+"/api/v1/usage?"+q.Encode(), token, &f)
		return f, err
	}
	if r.Days, err = ask("day"); err != nil {
		return nil, err
	}
	for _, by := range reportGroups {
		f, err := ask(by)
		if err != nil {
			return nil, err
		}
		r.Groups = append(r.Groups, report.Group{By: by, Figures: f})
	}
	return r, nil
}

// times reads --from and --to.
func (c *ReportUsage) times(now time.Time) (from, to time.Time, err error) {
	zone, err := time.LoadLocation(c.Zone)
	if err != nil {
		return from, to, fmt.Errorf("--zone %s: use an IANA time zone, such as Asia/Shanghai", c.Zone)
	}
	read := func(flag, text string, days int) (time.Time, error) {
		if at, err := time.ParseInLocation(time.DateOnly, text, zone); err == nil {
			return at.AddDate(0, 0, days), nil
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return at, fmt.Errorf("%s %s: use a day such as 2026-11-01, or RFC 3339 such as 2026-11-01T08:00:00+08:00", flag, text)
		}
		return at, nil
	}
	to = now.Truncate(time.Second)
	if c.To != "" {
		if to, err = read("--to", c.To, 1); err != nil {
			return from, to, err
		}
	}
	from = to.AddDate(0, 0, -30)
	if c.From != "" {
		if from, err = read("--from", c.From, 0); err != nil {
			return from, to, err
		}
	}
	if !to.After(from) {
		return from, to, errors.New("--to must be after --from")
	}
	return from, to, nil
}

// getJSON asks the admin API.
func getJSON(ctx context.Context, address, token string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%w: is it running there? give its address with --admin-url", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 256<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d: %.300s", req.URL.Path, resp.StatusCode, text)
	}
	return json.Unmarshal(text, out)
}
