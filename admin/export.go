package admin

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// recordWriter writes calls in a form, a page at a time.
type recordWriter interface {
	Write(recs []usage.Record) error
	Close() error
}

func (s *Server) registerUsageExport() {
	handle(s, route{method: http.MethodGet, path: "/usage/export", id: "export-usage", tag: "Usage", summary: "Single calls as CSV or Parquet, streamed", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			UsageFilter
			Format string `query:"format" enum:"csv,parquet" default:"csv"`
			BOM    bool   `query:"bom" doc:"Begin the CSV with a byte order mark, so that Excel reads Chinese."`
			Zone   string `query:"zone" maxLength:"64" doc:"IANA time zone of the times in the CSV; default UTC. Parquet holds instants."`
		},
		) (*huma.StreamResponse, error) {
			zone, err := usageZone(in.Zone)
			if err != nil {
				return nil, err
			}
			f, from, to, err := s.usageFilter(ctx, a, &in.UsageFilter)
			if err != nil {
				return nil, err
			}
			list := metering.ListInput{From: from, To: to, Limit: metering.MaxPage, Filter: f}
			// The first page is read before the answer begins, so that what is
			// wrong with the input still has a status of its own.
			first, err := s.deps.Usage.List(ctx, list)
			if err != nil {
				return nil, err
			}
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				kind := "text/csv; charset=utf-8"
				if in.Format == "parquet" {
					kind = "application/vnd.apache.parquet"
				}
				hc.SetHeader("Content-Type", kind)
				hc.SetHeader("Content-Disposition", fmt.Sprintf("attachment; filename=\"usage-%s.%s\"", from.Format("20060102"), in.Format))
				var w recordWriter
				if in.Format == "parquet" {
					w = newParquetWriter(hc.BodyWriter())
				} else {
					w = newCSVWriter(hc.BodyWriter(), zone, in.BOM)
				}
				if err := s.export(ctx, w, list, first); err != nil {
					s.log.Error("an export broke off", "error", err)
					panic(http.ErrAbortHandler) // the client sees that the file is cut short
				}
			}}, nil
		})
}

// export writes page after page: its memory is that of one page and of one row
// group of Parquet.
func (s *Server) export(ctx context.Context, w recordWriter, in metering.ListInput, page metering.Page) error {
	for {
		if err := w.Write(page.Records); err != nil {
			return err
		}
		if page.Next == "" {
			return w.Close()
		}
		in.After = page.Next
		var err error
		if page, err = s.deps.Usage.List(ctx, in); err != nil {
			return err
		}
	}
}

// guard keeps a spreadsheet from taking a text for a formula: models and paths
// are chosen by clients.
func guard(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r\n", rune(text[0])) {
		return "'" + text
	}
	return text
}

// csvWriter writes one line per call.
type csvWriter struct {
	w     *csv.Writer
	zone  *time.Location
	begun bool
	start string
	raw   io.Writer
}

func newCSVWriter(w io.Writer, zone *time.Location, bom bool) *csvWriter {
	c := &csvWriter{w: csv.NewWriter(w), zone: zone, raw: w}
	c.w.UseCRLF = true // RFC 4180
	if bom {
		c.start = "\ufeff"
	}
	return c
}

var csvHead = func() []string {
	head := []string{
		"request_id", "time", "finished", "account_id", "subscription_id", "product_id", "api", "model", "auth", "credential_id", "application_id",
		"region", "node", "status", "reason", "counted", "rule", "basis", "streamed", "incomplete", "client_gone",
	}
	for _, kind := range []string{"used_", "charged_", "overrun_"} {
		for u := range usage.NumUnits {
			head = append(head, kind+u.String())
		}
	}
	return append(head, "cached_tokens", "reasoning_tokens", "total_us", "upstream_us", "first_byte_us", "bytes_in", "bytes_out")
}()

func (c *csvWriter) Write(recs []usage.Record) error {
	if !c.begun {
		c.begun = true
		if _, err := io.WriteString(c.raw, c.start); err != nil {
			return err
		}
		if err := c.w.Write(csvHead); err != nil {
			return err
		}
	}
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	for i := range recs {
		r := &recs[i]
		line := []string{
			r.ID.String(), r.Time.In(c.zone).Format(time.RFC3339Nano), r.Finished.In(c.zone).Format(time.RFC3339Nano), guard(r.Account), guard(r.Subscription),
			guard(r.Product), guard(r.API), guard(r.Model), r.Auth.String(), guard(r.Credential), guard(r.Application), guard(r.Region), guard(r.Node),
			strconv.Itoa(r.Status), guard(r.Reason), strconv.FormatBool(r.Has(usage.Counted)), r.Rule.String(), r.Basis.String(),
			strconv.FormatBool(r.Has(usage.Streamed)), strconv.FormatBool(r.Has(usage.Incomplete)), strconv.FormatBool(r.Has(usage.ClientGone)),
		}
		for u := range usage.NumUnits {
			line = append(line, num(r.Units[u]))
		}
		for u := range usage.NumUnits {
			line = append(line, num(r.Charged(u)))
		}
		for u := range usage.NumUnits {
			line = append(line, num(r.Overrun[u]))
		}
		line = append(line, num(r.Cached), num(r.Reasoning), num(r.Total.Microseconds()), num(r.Upstream.Microseconds()),
			num(r.FirstByte.Microseconds()), num(r.BytesIn), num(r.BytesOut))
		if err := c.w.Write(line); err != nil {
			return err
		}
	}
	c.w.Flush()
	return c.w.Error()
}

func (c *csvWriter) Close() error {
	c.w.Flush()
	return c.w.Error()
}

// parquetRow is one call. Amounts are maps by billing item without those that
// are zero, so a new item changes no schema.
type parquetRow struct {
	RequestID    string           `parquet:"request_id"`
	Time         time.Time        `parquet:"time,timestamp(millisecond)"`
	Finished     time.Time        `parquet:"finished,timestamp(millisecond)"`
	Account      string           `parquet:"account_id,dict"`
	Subscription string           `parquet:"subscription_id,dict"`
	Product      string           `parquet:"product_id,dict"`
	API          string           `parquet:"api,dict"`
	Model        string           `parquet:"model,dict"`
	Auth         string           `parquet:"auth,dict"`
	Credential   string           `parquet:"credential_id,dict"`
	Application  string           `parquet:"application_id,dict"`
	Region       string           `parquet:"region,dict"`
	Node         string           `parquet:"node,dict"`
	Status       int32            `parquet:"status"`
	Reason       string           `parquet:"reason,dict"`
	Counted      bool             `parquet:"counted"`
	Rule         string           `parquet:"rule,dict"`
	Basis        string           `parquet:"basis,dict"`
	Streamed     bool             `parquet:"streamed"`
	Incomplete   bool             `parquet:"incomplete"`
	ClientGone   bool             `parquet:"client_gone"`
	Units        map[string]int64 `parquet:"units"`
	Charged      map[string]int64 `parquet:"charged"`
	Overrun      map[string]int64 `parquet:"overrun"`
	Cached       int64            `parquet:"cached_tokens"`
	Reasoning    int64            `parquet:"reasoning_tokens"`
	Total        int64            `parquet:"total_us"`
	Upstream     int64            `parquet:"upstream_us"`
	FirstByte    int64            `parquet:"first_byte_us"`
	BytesIn      int64            `parquet:"bytes_in"`
	BytesOut     int64            `parquet:"bytes_out"`
}

// rowGroup is how many calls a row group of Parquet holds: what the writer
// keeps in memory, some tens of megabytes.
const rowGroup = 20_000

type parquetWriter struct {
	w     *parquet.GenericWriter[parquetRow]
	group int
}

func newParquetWriter(w io.Writer) *parquetWriter {
	return &parquetWriter{w: parquet.NewGenericWriter[parquetRow](w, parquet.Compression(&zstd.Codec{}))}
}

func (p *parquetWriter) Write(recs []usage.Record) error {
	rows := make([]parquetRow, len(recs))
	for i := range recs {
		r := &recs[i]
		var charged usage.Units
		for u := range usage.NumUnits {
			charged[u] = r.Charged(u)
		}
		rows[i] = parquetRow{
			RequestID: r.ID.String(), Time: r.Time, Finished: r.Finished, Account: r.Account, Subscription: r.Subscription, Product: r.Product,
			API: r.API, Model: r.Model, Auth: r.Auth.String(), Credential: r.Credential, Application: r.Application, Region: r.Region, Node: r.Node,
			Status: int32(r.Status), Reason: r.Reason, Counted: r.Has(usage.Counted), Rule: r.Rule.String(), Basis: r.Basis.String(),
			Streamed: r.Has(usage.Streamed), Incomplete: r.Has(usage.Incomplete), ClientGone: r.Has(usage.ClientGone),
			Units: showUnits(&r.Units), Charged: showUnits(&charged), Overrun: showUnits(&r.Overrun), Cached: r.Cached, Reasoning: r.Reasoning,
			Total: r.Total.Microseconds(), Upstream: r.Upstream.Microseconds(), FirstByte: r.FirstByte.Microseconds(), BytesIn: r.BytesIn, BytesOut: r.BytesOut,
		}
	}
	if _, err := p.w.Write(rows); err != nil {
		return err
	}
	if p.group += len(rows); p.group >= rowGroup {
		p.group = 0
		return p.w.Flush()
	}
	return nil
}

func (p *parquetWriter) Close() error { return p.w.Close() }
