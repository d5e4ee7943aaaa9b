// Package embedded is the quota store of a single gateway node: the lots live
// in the memory of the process and in one log on its disk.
//
// # Durability
//
// Each step appends the new state of its subscription to the log with one
// write(2) before it is answered, so the death of the process (kill -9
// included) loses nothing. What the control plane decides (grants, thresholds,
// acknowledgements) is also synced to the disk before it is answered. The rest
// is synced once a second: a power cut may lose a second of it, and loses no
// use, because use is in the node's journal and Replay settles it again.
//
// # Format
//
//	file    magic "TGQUOTA1\n", then records
//	record  length 4 | CRC32C 4 | payload, little endian
//	payload the JSON of one ledger.Account; the last one of a subscription holds
//
// A record that is cut off or does not match its checksum ends the log: what
// follows was never answered as durable. It is cut away when the log is opened
// and told in the log. When the log is more than four times as long as what it
// holds, and longer than Options.CompactAbove, a new one is written beside it,
// synced and renamed over it.
//
// A lock file keeps a second process out.
package embedded
