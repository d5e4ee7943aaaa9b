package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

var (
	insertHead = regexp.MustCompile(`(?is)^\s*insert\s+into\b`)
	formatTail = regexp.MustCompile(`(?is)\s+format\s+(\w+)\s*;?\s*$`)
	errorCode  = regexp.MustCompile(`[Cc]ode: (\d+)`)
)

// notSettings are the URL parameters that mean something to the interface
// itself; every other one is a setting of the query. What follows "ignored" is
// of the HTTP server, which the engine does not know.
var notSettings = map[string]bool{
	"query": true, "database": true, "default_format": true, "client_protocol_version": true, "compress": true, "decompress": true,
	"query_id": true, "session_id": true, "user": true, "password": true,
	"enable_http_compression": true, "wait_end_of_query": true, "http_headers_progress_interval_ms": true, "send_progress_in_http_headers": true, // ignored
}

// ServeHTTP answers one query.
func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ping" {
		_, _ = io.WriteString(w, "Ok.\n")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil { // the client broke off: nothing of it is done
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v := r.URL.Query()
	if v.Get("decompress") == "1" && len(body) > 0 {
		// The reader wraps the EOF between two frames; within one it is another.
		if body, err = io.ReadAll(compress.NewReader(bytes.NewReader(body))); err != nil && !errors.Is(err, io.EOF) {
			fail(w, fmt.Errorf("code: 271. DB::Exception: %w. (CANNOT_DECOMPRESS)", err))
			return
		}
	}
	out, rows, err := e.answer(v, body)
	if err != nil {
		fail(w, err)
		return
	}
	if v.Get("compress") == "1" && len(out) > 0 {
		cw := compress.NewWriter(0, compress.LZ4)
		if err := cw.Compress(out); err != nil {
			fail(w, err)
			return
		}
		out = cw.Data
	}
	w.Header().Set("X-ClickHouse-Summary", fmt.Sprintf(`{"written_rows":"%d"}`, rows))
	_, _ = w.Write(out)
}

func (e *engine) answer(v url.Values, body []byte) ([]byte, uint64, error) {
	in := session{database: v.Get("database"), settings: map[string]string{}}
	for name := range v {
		if !notSettings[name] && !strings.HasPrefix(name, "param_") {
			in.settings[name] = v.Get(name)
		}
	}
	query := v.Get("query")
	if insertHead.MatchString(query) {
		if m := formatTail.FindStringSubmatch(query); m != nil {
			rows, err := e.insert(formatTail.ReplaceAllString(query, ""), m[1], body, in)
			return nil, rows, err
		}
	}
	if query != "" && len(body) > 0 {
		query += "\n"
	}
	query += string(body)
	format := v.Get("default_format")
	if format == "" {
		format = "TabSeparated"
	}
	out, rows, err := e.run(query, format, in)
	if err != nil {
		return nil, 0, err
	}
	revision, _ := strconv.ParseUint(v.Get("client_protocol_version"), 10, 64)
	if format == "Native" && revision > 0 && len(out) > 0 {
		out, err = rewrite(out, revision)
	}
	return out, rows, err
}

// rewrite turns Native blocks of revision 0 into such of the revision that the
// client asked for.
func rewrite(in []byte, revision uint64) ([]byte, error) {
	r := chproto.NewReader(bytes.NewReader(in))
	var out chproto.Buffer
	for {
		b := proto.NewBlock()
		if err := b.Decode(r, 0); err != nil {
			if errors.Is(err, io.EOF) {
				return out.Buf, nil
			}
			return nil, fmt.Errorf("decode the engine's answer: %w", err)
		}
		if err := b.Encode(&out, revision); err != nil {
			return nil, fmt.Errorf("encode the answer: %w", err)
		}
	}
}

func fail(w http.ResponseWriter, err error) {
	code := "1002" // UNKNOWN_EXCEPTION
	if m := errorCode.FindStringSubmatch(err.Error()); m != nil {
		code = m[1]
	}
	w.Header().Set("X-ClickHouse-Exception-Code", code)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}
