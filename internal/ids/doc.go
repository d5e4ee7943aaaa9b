// Package ids makes the identifiers of Tollgate.
//
// Entities (products, subscriptions, lots, orders, …) are ULIDs: 26 upper-case
// letters and digits that sort as text in order of creation, which PKG-20 uses
// as its last tie-break. A request id is the same 16 bytes printed as 32
// lower-case hexadecimal digits, the form API gateway users know
// (gateway-wire section 3.1), so it sorts by time as well.
package ids
