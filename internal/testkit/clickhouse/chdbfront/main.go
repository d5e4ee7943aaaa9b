// Command chdbfront serves a part of ClickHouse's HTTP interface in front of
// chDB, the ClickHouse engine as a library. It is a test server only.
//
//	chdbfront --lib libchdb.so --data DIR [--listen 127.0.0.1:0]
//
// The engine is the real one: its tables, merges, materialised views,
// deduplication and functions are what a ClickHouse server of the same version
// has. The front is ours, so nothing here proves the HTTP server, the native
// protocol, users, quotas or replication of ClickHouse.
//
// What it does of the interface: /ping; queries by GET and POST; settings in
// the URL, in force for that query alone; INSERT … FORMAT with the data in the
// body; compress and decompress (LZ4, ZSTD frames); client_protocol_version
// (the engine writes Native blocks of revision 0, which are written anew); the
// header X-ClickHouse-Exception-Code. One process serves one data folder, whose
// lock the engine holds; a killed one can be started again on the same data.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// connections is how many queries run at once.
const connections = 4

func main() {
	lib := flag.String("lib", "", "path of libchdb.so")
	data := flag.String("data", "", "folder of the tables")
	listen := flag.String("listen", "127.0.0.1:0", "address to serve")
	flag.Parse()
	if err := serve(*lib, *data, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "chdbfront:", err)
		os.Exit(1)
	}
}

func serve(lib, data, listen string) error {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	e, err := open(lib, data, connections)
	if err != nil {
		return err
	}
	fmt.Println("listening", ln.Addr())
	srv := &http.Server{Handler: e, ReadHeaderTimeout: time.Minute}
	return srv.Serve(ln)
}
