// Package accesslog writes one line for each request without making any of them
// wait: lines pass through a bounded buffer to one goroutine, and are dropped
// and counted when it is full. The file can be renamed and opened anew.
package accesslog
