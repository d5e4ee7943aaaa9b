// Package directory is what the admin role tells the gateways: an immutable,
// versioned snapshot of products, subscriptions and credentials, and the sealed
// form in which it travels and lies on a gateway's disk.
//
// The admin role builds a Snapshot, gateways take it by a Source (in process,
// or by long poll over HTTP) and swap it in whole. A change takes effect on
// every gateway within 5 s (KEY-7, PKG-27).
package directory
