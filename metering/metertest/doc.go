// Package metertest holds what every usage store must do, as one suite of
// tests that runs over each of them.
package metertest
