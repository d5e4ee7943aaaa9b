// Package lot is the vocabulary of what a buyer was granted: a lot is one
// purchased package (or top-up, or on-demand credit line) as the control plane
// defines it. Billing makes lots, the quota engine spends them.
package lot
