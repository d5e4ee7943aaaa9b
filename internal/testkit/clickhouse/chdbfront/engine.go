package main

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is the part of libchdb's C interface that the front calls. Lengths
// are bytes; handles are opaque. chdb.h of the engine's repository describes
// each function under the same name.
type library struct {
	connect  func(argc int32, argv **byte) *uintptr
	query    func(conn uintptr, q *byte, ql uintptr, format *byte, fl uintptr) uintptr
	buffer   func(result uintptr) unsafe.Pointer
	length   func(result uintptr) uintptr
	failure  func(result uintptr) string
	written  func(result uintptr) uint64
	destroy  func(result uintptr)
	signals  func(on int32)
	insert   func(conn uintptr, q *byte, ql uintptr, format *byte, fl uintptr) uintptr
	inserr   func(stream uintptr) string
	append   func(stream uintptr, data *byte, n uintptr) int32
	done     func(stream uintptr) uintptr
	endInser func(stream uintptr)
}

// engine is chDB opened on a folder, with a few connections that queries share.
type engine struct {
	lib   library
	conns chan uintptr
}

// open loads the library and opens the folder.
func open(path, dir string, connections int) (*engine, error) {
	h, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	e := &engine{conns: make(chan uintptr, connections)}
	for name, fn := range map[string]any{
		"chdb_connect": &e.lib.connect, "chdb_query_n": &e.lib.query, "chdb_result_buffer": &e.lib.buffer,
		"chdb_result_length": &e.lib.length, "chdb_result_error": &e.lib.failure, "chdb_result_rows_written": &e.lib.written,
		"chdb_destroy_query_result": &e.lib.destroy, "chdb_set_signal_handlers_enabled": &e.lib.signals,
		"chdb_stream_insert_n": &e.lib.insert, "chdb_stream_insert_error": &e.lib.inserr, "chdb_stream_append": &e.lib.append,
		"chdb_stream_done": &e.lib.done, "chdb_destroy_insert_stream": &e.lib.endInser,
	} {
		purego.RegisterLibFunc(fn, h, name)
	}
	e.lib.signals(0) // Go's own handlers stay
	for range connections {
		args := [][]byte{[]byte("clickhouse\x00"), []byte("--path=" + dir + "\x00")}
		argv := make([]*byte, len(args)+1)
		for i := range args {
			argv[i] = &args[i][0]
		}
		c := e.lib.connect(int32(len(args)), &argv[0])
		if c == nil || *c == 0 {
			return nil, fmt.Errorf("chDB cannot open %s: another process may have it", dir)
		}
		e.conns <- *c
	}
	return e, nil
}

// session is what the URL says of a query beside its text.
type session struct {
	database string // empty: default
	settings map[string]string
}

// run executes a query with settings and returns its result in a format, and
// how many rows it wrote.
func (e *engine) run(query, format string, in session) ([]byte, uint64, error) {
	c := <-e.conns
	defer func() { e.conns <- c }()
	reset, err := e.set(c, in)
	if err != nil {
		return nil, 0, err
	}
	defer reset()
	return e.query(c, query, format)
}

func (e *engine) query(c uintptr, query, format string) ([]byte, uint64, error) {
	q, f := []byte(query), []byte(format)
	if len(q) == 0 || len(f) == 0 {
		return nil, 0, errors.New("code: 62. DB::Exception: Empty query. (SYNTAX_ERROR)")
	}
	r := e.lib.query(c, &q[0], uintptr(len(q)), &f[0], uintptr(len(f)))
	if r == 0 {
		return nil, 0, errors.New("chDB gave no result")
	}
	defer e.lib.destroy(r)
	if text := e.lib.failure(r); text != "" {
		return nil, 0, errors.New(text)
	}
	var out []byte
	if n := e.lib.length(r); n > 0 {
		out = append(out, unsafe.Slice((*byte)(e.lib.buffer(r)), n)...)
	}
	return out, e.lib.written(r), nil
}

// set puts a session in force on a connection until reset is called.
func (e *engine) set(c uintptr, in session) (reset func(), err error) {
	database := in.database
	if database == "" {
		database = "default"
	}
	if _, _, err := e.query(c, "USE `"+strings.ReplaceAll(database, "`", "")+"`", "Null"); err != nil {
		return nil, err
	}
	if len(in.settings) == 0 {
		return func() {}, nil
	}
	names := make([]string, 0, len(in.settings))
	for name := range in.settings {
		names = append(names, name)
	}
	sort.Strings(names)
	var on, off []string
	for _, name := range names {
		on = append(on, name+" = '"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(in.settings[name])+"'")
		off = append(off, name+" = DEFAULT")
	}
	if _, _, err := e.query(c, "SET "+strings.Join(on, ", "), "Null"); err != nil {
		return nil, err
	}
	return func() { _, _, _ = e.query(c, "SET "+strings.Join(off, ", "), "Null") }, nil
}

// insertChunk is how much data goes into the engine at once.
const insertChunk = 1 << 20

// insert executes an INSERT whose data is in a format.
func (e *engine) insert(query, format string, data []byte, in session) (uint64, error) {
	c := <-e.conns
	defer func() { e.conns <- c }()
	reset, err := e.set(c, in)
	if err != nil {
		return 0, err
	}
	defer reset()
	q, f := []byte(query), []byte(format)
	st := e.lib.insert(c, &q[0], uintptr(len(q)), &f[0], uintptr(len(f)))
	if st == 0 {
		return 0, errors.New("chDB gave no insert stream")
	}
	defer e.lib.endInser(st)
	if text := e.lib.inserr(st); text != "" {
		return 0, errors.New(text)
	}
	for len(data) > 0 {
		n := min(len(data), insertChunk)
		if e.lib.append(st, &data[0], uintptr(n)) != 0 {
			break // done tells why
		}
		data = data[n:]
	}
	r := e.lib.done(st)
	if r == 0 {
		return 0, errors.New(e.lib.inserr(st))
	}
	defer e.lib.destroy(r)
	if text := e.lib.failure(r); text != "" {
		return 0, errors.New(text)
	}
	return e.lib.written(r), nil
}
