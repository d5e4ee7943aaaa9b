// Package signtest runs a server that accepts nothing but correctly signed
// requests, for tests of clients that sign.
package signtest
