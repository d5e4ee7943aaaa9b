// Package fastsign feeds fasthttp requests to the signature verifier.
//
// It takes the path and query from the request line as they came, never
// fasthttp's folded path, and finds header fields whatever their case and
// whether or not the server normalises names.
package fastsign
