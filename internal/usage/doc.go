// Package usage is the vocabulary of what a call used: billing items, their
// amounts, the record of one call, and the record's binary form in the node's
// journal.
//
// It has no behaviour beyond encoding: quota decides what a lot can give,
// metering where a record is stored, billing what it costs.
package usage
