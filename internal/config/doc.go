// Package config is the program's configuration: one struct, its defaults, and
// where its values come from. The order is defaults, then the YAML file, then
// TOLLGATE_ environment variables, then flags; a later one wins.
//
// Every key has one path, as in `gateway.max_body`, and one environment
// variable made of it, as in TOLLGATE_GATEWAY_MAX_BODY. A key that does not
// exist is an error, wherever it was written.
package config
