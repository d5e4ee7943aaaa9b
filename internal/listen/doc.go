// Package listen opens TCP ports that can be given up without losing a
// connection.
//
// A connection that a client has opened and nobody has accepted yet waits in
// the kernel. Closing the listener resets it: the client sees a failure on a
// connection that had looked good. [Listener.Drain] first has the kernel ignore
// new connection attempts, then takes what is waiting, and closes only then. A
// client that knocks in that moment tries again by itself, and meets the next
// process that listens on the port (SO_REUSEPORT), or is refused.
package listen
