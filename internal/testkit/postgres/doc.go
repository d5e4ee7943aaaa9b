// Package postgres runs real PostgreSQL servers under a test.
//
// URL gives a test an empty database of its own, on one server that the whole
// test binary shares; Start runs a server that one test may kill. The servers
// listen on a Unix socket in a temporary folder, so no two can be in each
// other's way, and run without fsync: a killed server keeps its data, a
// power cut is not what these tests are about.
//
// The server programs are taken from PATH or from Debian's folder, in version
// 13 or newer; if there are none the test fails and says how to install them.
// They refuse to run as root, so under root they run as the user postgres.
package postgres
