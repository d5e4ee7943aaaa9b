package gateway

import (
	"bytes"
	"net"
)

// buildRequest makes the upstream request for target t out of the client's.
//
// The client's fields are taken from the request as it came and copied line by
// line, so that order, spelling and repetitions stay. What was framed, checked
// or is the gateway's to say is written anew.
func (c *call) buildRequest(t *target) {
	in := &c.ctx.Request.Header
	h := append(c.head[:0], "Host: "...)
	h = append(append(h, t.Host()...), "\r\n"...)
	for i := range c.fields {
		if f := &c.fields[i]; c.forwards(f) && !t.sets(f.name) && !(c.traced() && namesTrace(f.name)) {
			h = append(h, f.line...)
		}
	}
	if !t.setsType {
		h = appendField(h, "Content-Type: ", in.ContentType())
	}
	if !t.setsAgent {
		h = appendField(h, "User-Agent: ", in.UserAgent())
	}
	h = appendField(h, "X-Request-Id: ", c.idText[:])
	if c.traced() {
		h = c.appendTrace(h, t)
	}
	h = append(h, "X-Forwarded-For: "...)
	h = append(c.appendForwardedFor(h), "\r\n"...)
	h = appendField(h, "X-Forwarded-Host: ", c.clientHost())
	if c.secure() {
		h = append(h, "X-Forwarded-Proto: https\r\n"...)
	} else {
		h = append(h, "X-Forwarded-Proto: http\r\n"...)
	}
	h = append(h, "Via: 1.1 tollgate\r\n"...) // RFC 9110 section 7.6.3
	if c.llm {
		h = append(append(append(h, "X-Customer-Id: "...), c.who.account.id...), "\r\n"...) // EXT-2
		// Usage has to be read on the way; a plain answer spares unpacking it.
		h = append(h, "Accept-Encoding: identity\r\n"...)
	}
	h = append(h, t.lines...)

	c.req.Method = c.ctx.Method()
	c.req.Target = c.appendTarget(c.target[:0], t)
	c.target = c.req.Target
	c.req.Body, c.req.Stream, c.req.Trailer = nil, nil, nil
	switch {
	case c.bodyRead:
		c.req.Body = c.body
	case c.upload.r.r != nil:
		c.req.Stream, c.req.StreamErr, c.req.Length = &c.upload, c.upload.failure, c.uploadLength()
		if names := in.PeekTrailerKeys(); c.req.Length < 0 && len(names) > 0 {
			h = c.appendTrailerNames(h, names)
			c.req.Trailer = c.appendTrailers
		}
	}
	c.head, c.req.Header = h, h
}

// forwards reports whether a field of the client's request goes upstream.
func (c *call) forwards(f *field) bool {
	switch f.kind {
	case plain:
	case apiKeyField, acceptEncoding:
		return !c.llm
	case contentEncoding:
		return !c.decoded
	case mock:
		return c.product.ForwardMock
	default:
		return false
	}
	for _, name := range c.listed {
		if bytes.EqualFold(name, f.name) {
			return false
		}
	}
	return true
}

// namesTrace reports whether a field carries W3C trace context.
func namesTrace(name []byte) bool {
	return sameField(name, "traceparent") || sameField(name, "tracestate")
}

// readFields reads the request's header fields and refuses an ambiguous header.
func (c *call) readFields() error {
	var err error
	c.fields, err = parseFields(c.fields[:0], c.ctx.Request.Header.RawHeaders())
	if err != nil {
		return err
	}
	for i := range c.fields {
		if f := &c.fields[i]; f.kind == connection {
			options(f.value, func(o []byte) {
				switch {
				case equalFold(o, "close"):
					c.closing = true // the server only knows the option when it stands alone
				case equalFold(o, "keep-alive"):
				default:
					c.listed = append(c.listed, o)
				}
			})
		}
	}
	return nil
}

func appendField(h []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return h
	}
	return append(append(append(h, name...), value...), "\r\n"...)
}

// appendTarget appends the target of the upstream's request line: the client's
// path and query byte for byte, but for what the route removes.
func (c *call) appendTarget(dst []byte, t *target) []byte {
	dst = append(dst, t.Base()...)
	switch {
	case c.llm:
		dst = append(dst, c.route.rest...)
	case c.product.StripPath:
		dst = append(dst, c.path[min(len(c.product.Path), len(c.path)):]...)
	default:
		dst = append(dst, c.path...)
	}
	if len(dst) == 0 {
		dst = append(dst, '/')
	}
	if q := withoutAppCode(c.query); len(q) > 0 {
		dst = append(append(dst, '?'), q...)
	}
	return dst
}

// appendForwardedFor appends the value of X-Forwarded-For: the client's
// address, behind what a trusted proxy said.
func (c *call) appendForwardedFor(dst []byte) []byte {
	if c.behindProxy() {
		for i := range c.fields {
			if f := &c.fields[i]; f.kind == ours && sameField(f.name, "x-forwarded-for") && len(f.value) > 0 {
				dst = append(append(dst, f.value...), ", "...)
			}
		}
	}
	addr := c.ctx.RemoteAddr()
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().AppendTo(dst)
	}
	if host, _, err := net.SplitHostPort(addr.String()); err == nil {
		return append(dst, host...)
	}
	return append(dst, "unknown"...)
}

// behindProxy reports whether the connection comes from a trusted proxy.
func (c *call) behindProxy() bool {
	return len(c.g.cfg.TrustedProxies) > 0 && trusted(c.g.cfg.TrustedProxies, c.ctx.RemoteAddr())
}

// secure reports whether the client's own connection is https: here, or at a
// proxy that is configured as trusted (AUTH-5).
func (c *call) secure() bool {
	return c.ctx.IsTLS() || equalFold(c.forwarded("proto"), "https")
}

// clientHost is the Host the client sent, told by a trusted proxy or by itself.
func (c *call) clientHost() []byte {
	if h := c.forwarded("host"); len(h) > 0 {
		return h
	}
	return c.ctx.Request.Header.Host()
}

// trailers of a streamed request body

func (c *call) appendTrailerNames(h []byte, names [][]byte) []byte {
	n := 0
	for _, name := range names {
		if !c.forwardsTrailer(name) {
			continue
		}
		if n++; n == 1 {
			h = append(h, "Trailer: "...)
		} else {
			h = append(h, ", "...)
		}
		h = append(h, name...)
	}
	if n > 0 {
		h = append(h, "\r\n"...)
	}
	return h
}

// appendTrailers appends the announced trailers that came behind the body.
func (c *call) appendTrailers(dst []byte) []byte {
	in := &c.ctx.Request.Header
	for _, name := range in.PeekTrailerKeys() {
		if !c.forwardsTrailer(name) {
			continue
		}
		for _, v := range in.PeekAll(string(name)) {
			dst = append(append(append(append(dst, name...), ": "...), v...), "\r\n"...)
		}
	}
	return dst
}

// forwardsTrailer reports whether a trailer may go upstream. The server keeps
// trailers among the header's fields, so that one of a name that stands there
// too cannot be told from it and is dropped.
func (c *call) forwardsTrailer(name []byte) bool {
	if classify(name) != plain {
		return false
	}
	for i := range c.fields {
		if bytes.EqualFold(c.fields[i].name, name) {
			return false
		}
	}
	return true
}
