// Package cli is the command line of Tollgate: one struct per command, parsed
// by kong, each doing no more than turning flags into calls.
package cli
