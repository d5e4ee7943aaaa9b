// Package upstream speaks HTTP/1.1 to the targets of a product: a pool of
// kept-alive connections per target, one exchange on one of them, and the
// answer's body as it comes.
//
// fasthttp writes requests and reads answers; what is ours is the connection
// between them, because a gateway must know three things a plain client hides:
// whether anything of a request left (only then is a repeat a second call),
// each interim 1xx answer (RFC 9110 section 15.2 wants them forwarded), and
// when an answer's body breaks.
package upstream
