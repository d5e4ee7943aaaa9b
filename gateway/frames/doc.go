// Package frames reads WebSocket frames (RFC 6455 section 5) that are passed on
// as they came, and makes the few that the gateway says itself.
//
//	0               1               2
//	FIN RSV OPCODE  MASK LENGTH      length 126: 16 bits follow, 127: 64 bits
//	then, when MASK is set, a key of 4 bytes with which the payload is masked
package frames
