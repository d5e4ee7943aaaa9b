// Package app joins the parts of Tollgate into one program: it opens the
// stores, starts the roles the configuration names, and ends them in an order
// that loses nothing.
//
// Nothing is decided here that a part could decide itself; the adapters only
// fit one part's types to the interface another declared.
package app
