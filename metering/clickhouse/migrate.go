package clickhouse

import (
	"context"
	"embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"tollgate/metering"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// window is how many inserts each table remembers to recognise a repeated one.
// An entry costs some hundred bytes of disk (Keeper's, when replicated).
const (
	window       = 100_000
	windowFor    = 7 * 24 * time.Hour // replicated tables forget earlier than that otherwise
	single       = "non_replicated_deduplication_window = %d"
	replicated   = "replicated_deduplication_window = %d, replicated_deduplication_window_seconds = %d"
	onCluster    = "ON CLUSTER '%s'"
	keeperPath   = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'"
	commentLines = `(?m)^\s*--.*$`
)

var placeholder = regexp.MustCompile(`\{\{([a-z]+)(?::(.*?))?(?::([a-z]+))?\}\}`)

// statements returns the schema for the options, one statement each.
func statements(o *Options) ([]string, error) {
	names, err := schemaFiles.ReadDir("schema")
	if err != nil {
		return nil, err
	}
	var list []string
	for _, n := range names {
		text, err := schemaFiles.ReadFile("schema/" + n.Name())
		if err != nil {
			return nil, err
		}
		plain := regexp.MustCompile(commentLines).ReplaceAllString(string(text), "")
		for part := range strings.SplitSeq(plain, ";\n") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			list = append(list, placeholder.ReplaceAllStringFunc(part, func(p string) string {
				m := placeholder.FindStringSubmatch(p)
				return fill(o, m[1], m[2], m[3])
			}))
		}
	}
	return list, nil
}

func fill(o *Options, what, arg, more string) string {
	switch what {
	case "cluster":
		if o.Cluster != "" {
			return fmt.Sprintf(onCluster, o.Cluster)
		}
	case "engine":
		if o.Cluster == "" {
			return arg + "(" + more + ")"
		}
		args := keeperPath
		if more != "" {
			args += ", " + more
		}
		return "Replicated" + arg + "(" + args + ")"
	case "window":
		if o.Cluster == "" {
			return fmt.Sprintf(single, window)
		}
		return fmt.Sprintf(replicated, window, int(windowFor.Seconds()))
	case "ttl":
		if d := o.retention(more); d > 0 {
			return "TTL " + ttl(arg, d)
		}
	case "dims":
		var cols []string
		for _, n := range texts {
			cols = append(cols, n+" LowCardinality(String)")
		}
		return strings.Join(append(cols, "status UInt16", "basis UInt8"), ", ")
	case "dimnames":
		return strings.Join(dimNames, ", ")
	case "amounts":
		return strings.Join(amountColumns(), ", ")
	case "sums":
		return strings.Join(append(sumColumns(), "latencies SimpleAggregateFunction(sumMap, Map(UInt16, Int64))",
			"finished SimpleAggregateFunction(max, DateTime64(3, 'UTC'))"), ", ")
	case "rollup":
		for l := metering.Minute; l <= metering.Day; l++ {
			if arg == l.String() {
				return rollupQuery(l, tables[metering.Raw])
			}
		}
	}
	return ""
}

func amountColumns() (cols []string) {
	for _, a := range amountNames {
		cols = append(cols, a+" Int64 CODEC(T64, LZ4)")
	}
	return cols
}

func sumColumns() (cols []string) {
	for _, a := range sumNames {
		cols = append(cols, a+" SimpleAggregateFunction(sum, Int64)")
	}
	return cols
}

func ttl(expr string, d time.Duration) string {
	return fmt.Sprintf("%s + toIntervalSecond(%d)", expr, int64(d.Seconds()))
}

func (o *Options) retention(name string) time.Duration {
	return map[string]time.Duration{"retention": o.Retention, "minute": o.MinuteRetention, "rollup": o.RollupRetention}[name]
}

// migrate makes what is missing: tables, the columns of billing items that are
// newer than the tables, and the retention where it was set anew.
func (s *Store) migrate(ctx context.Context) error {
	list, err := statements(&s.opt)
	if err != nil {
		return err
	}
	for _, text := range list {
		if err := s.conn.Exec(ctx, text); err != nil {
			return fmt.Errorf("%.60s…: %w", text, err)
		}
	}
	if err := s.addColumns(ctx); err != nil {
		return err
	}
	for table, kind := range map[string]string{"usage_call": "retention", "usage_open": "retention", "usage_minute": "minute", "usage_hour": "rollup", "usage_day": "rollup"} {
		if err := s.setTTL(ctx, table, kind); err != nil {
			return fmt.Errorf("retention of %s: %w", table, err)
		}
	}
	return nil
}

// addColumns adds the columns of billing items that a table does not have yet,
// first to the tables, then to what the views read.
func (s *Store) addColumns(ctx context.Context) error {
	changed := false
	for _, table := range []string{"usage_call", "usage_open", "usage_minute", "usage_hour", "usage_day"} {
		names, cols := amountNames, amountColumns()
		if table != "usage_call" && table != "usage_open" {
			names, cols = sumNames, sumColumns()
		}
		var have []string
		if err := s.conn.QueryRow(ctx, "SELECT groupArray(name) FROM system.columns WHERE database = currentDatabase() AND table = ?", table).Scan(&have); err != nil {
			return err
		}
		for i, n := range names {
			if slices.Contains(have, n) {
				continue
			}
			changed = true
			if err := s.alter(ctx, table, "ADD COLUMN IF NOT EXISTS "+cols[i]); err != nil {
				return err
			}
		}
	}
	if !changed {
		return nil
	}
	for l := metering.Minute; l <= metering.Day; l++ {
		if err := s.alter(ctx, tables[l]+"_of", "MODIFY QUERY "+rollupQuery(l, tables[metering.Raw])); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) alter(ctx context.Context, table, change string) error {
	cluster := fill(&s.opt, "cluster", "", "")
	if err := s.conn.Exec(ctx, "ALTER TABLE "+table+" "+cluster+" "+change); err != nil {
		return fmt.Errorf("alter %s: %w", table, err)
	}
	return nil
}

func (s *Store) setTTL(ctx context.Context, table, kind string) error {
	var engine string
	if err := s.conn.QueryRow(ctx, "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = ?", table).Scan(&engine); err != nil {
		return err
	}
	d := s.opt.retention(kind)
	want := fmt.Sprintf("toIntervalSecond(%d)", int64(d.Seconds()))
	has := strings.Contains(engine, " TTL ")
	switch {
	case d == 0 && has:
		return s.alter(ctx, table, "REMOVE TTL")
	case d == 0 || has && strings.Contains(engine, want):
		return nil
	}
	expr := "bucket"
	if kind == "retention" {
		expr = "toDateTime(greatest(time, toDateTime64(stored, 3, 'UTC')))"
	}
	return s.alter(ctx, table, "MODIFY TTL "+ttl(expr, d))
}
