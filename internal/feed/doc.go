// Package feed is the wire between the admin role and gateways in other
// processes: directory snapshots one way, usage records the other.
//
//	GET  /feed/v1/directory?since=N   long poll, at most MaxPoll
//	     200  a sealed snapshot (directory.Seal) whose version is not N
//	     204  nothing changed: ask again
//	POST /feed/v1/usage               a batch of usage records of one node
//	     204  every record is kept; anything else: send the batch again
//
// Both carry a proof of the feed secret, never the secret itself, so that
// somebody who listens on a plain-http wire can neither ask nor open:
//
//	Authorization: TGFEED1 UNIXSECONDS.HEX(HMAC-SHA256(key,
//	    "TGFEED1\n" METHOD "\n" REQUEST-URI "\n" UNIXSECONDS "\n" HEX(SHA256(body))))
//
// A proof is good for Skew around its time. Repeating a request is harmless: a
// snapshot is sealed, and records are kept once by their request id.
package feed
