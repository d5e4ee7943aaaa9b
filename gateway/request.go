package gateway

import (
	"bytes"
	"io"
	"net"
	"strings"

	"github.com/valyala/fasthttp"

	"tollgate/internal/usage"
)

// hopByHop are the fields that concern one connection only (RFC 9110 section
// 7.6.1), and Expect, which was answered here.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Expect",
}

// credentials are the fields that never reach an upstream (AUTH-13).
var credentials = []string{
	fasthttp.HeaderAuthorization, headerAppCode,
	"X-Sdk-Date", "X-Sdk-Content-Sha256", "X-Sdk-Nonce", "X-Proxy-Signed-Headers",
}

// ours are fields only the gateway may set: a client's own would be believed.
var ours = []string{
	"X-Request-Id", "X-Customer-Id", "X-Customer-Name",
	"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip", "Forwarded",
}

type header interface {
	Peek(key string) []byte
	PeekAll(key string) [][]byte
	Del(key string)
}

// removeHopByHop deletes the hop-by-hop fields of h, those named by its
// Connection field among them.
func removeHopByHop(h header) {
	for _, v := range h.PeekAll("Connection") {
		if equalFold(v, "close") || equalFold(v, "keep-alive") {
			continue
		}
		for _, name := range strings.Split(string(v), ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.EqualFold(name, "close") && !strings.EqualFold(name, "keep-alive") {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// buildRequest makes the upstream request for target t out of the client's.
func (c *call) buildRequest(t *target) {
	in, req := &c.ctx.Request, &c.req
	req.Reset()
	h := &req.Header
	in.Header.CopyTo(h)
	h.SetNoDefaultContentType(true)
	h.SetProtocol("HTTP/1.1")
	h.ResetConnectionClose()
	removeHopByHop(h)
	for _, name := range credentials {
		h.Del(name)
	}
	forwarded := c.forwardedFor()
	for _, name := range ours {
		h.Del(name)
	}
	if !c.product.ForwardMock {
		c.dropMock()
	}
	h.SetBytesV("X-Request-Id", c.idText[:])
	h.Set("X-Forwarded-For", forwarded)
	h.SetBytesV("X-Forwarded-Host", in.Header.Host())
	if c.secureTransport() {
		h.Set("X-Forwarded-Proto", "https")
	} else {
		h.Set("X-Forwarded-Proto", "http")
	}
	h.Add("Via", "1.1 tollgate") // RFC 9110 section 7.6.3
	if c.llm {
		h.Del("X-Api-Key")
		h.Set("X-Customer-Id", c.who.account.id) // EXT-2
		// Usage has to be read on the way; a plain answer spares unpacking it.
		h.Set(fasthttp.HeaderAcceptEncoding, "identity")
	}
	h.SetHost(t.Host())
	for _, kv := range t.headers {
		h.Set(kv.Name, kv.Value)
	}
	c.target = append(c.target[:0], t.Base()...)
	switch {
	case c.llm:
		c.target = append(c.target, c.route.rest...)
	case c.product.StripPath:
		c.target = append(c.target, c.path[min(len(c.product.Path), len(c.path)):]...)
	default:
		c.target = append(c.target, c.path...)
	}
	if len(c.target) == 0 || c.target[0] != '/' {
		c.target = append([]byte{'/'}, c.target...)
	}
	if q := withoutAppCode(c.query); len(q) > 0 {
		c.target = append(append(c.target, '?'), q...)
	}
	h.SetRequestURIBytes(c.target)

	switch {
	case c.bodyRead:
		_ = h.SetTrailer("")
		req.SetBodyRaw(c.body)
		if c.decoded {
			h.Del(fasthttp.HeaderContentEncoding)
		}
	case c.upload.r != nil:
		req.SetBodyStream(&c.upload, in.Header.ContentLength())
	}
}

// dropMock removes the mock upstream's steering fields.
func (c *call) dropMock() {
	var names []string
	for k := range c.req.Header.All() {
		if bytes.HasPrefix(k, []byte("X-Mock-")) {
			names = append(names, string(k))
		}
	}
	for _, n := range names {
		c.req.Header.Del(n)
	}
}

// forwardedFor is the X-Forwarded-For to send: the client's address, behind
// what a trusted proxy said.
func (c *call) forwardedFor() string {
	addr := c.ctx.RemoteAddr()
	ip := ""
	if host, _, err := net.SplitHostPort(addr.String()); err == nil {
		ip = host
	}
	if len(c.g.cfg.TrustedProxies) > 0 && trusted(c.g.cfg.TrustedProxies, addr) {
		if prior := c.ctx.Request.Header.Peek("X-Forwarded-For"); len(prior) > 0 {
			return string(prior) + ", " + ip
		}
	}
	return ip
}

func (c *call) secureTransport() bool { return c.ctx.IsTLS() }

// upload is a request body that is sent on as it comes.
type upload struct {
	r     io.Reader
	left  int64 // bytes that may still come
	n     int64
	err   error // why the client's side broke off
	ended bool
}

// Read implements io.Reader. It counts, holds the limit and remembers a
// failure, so that a client that vanished is not taken for a failed upstream.
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	u.n += int64(n)
	if u.left -= int64(n); u.left < 0 {
		u.err = errTooLarge
		return 0, errTooLarge
	}
	switch {
	case err == io.EOF:
		u.ended = true
	case err != nil:
		u.err = err
	}
	return n, err
}

func (u *upload) failure() error { return u.err }

// smallBody is the size up to which a body is read whole before it is sent on:
// fasthttp has that much in memory already.
const smallBody = 8 << 10

// takeBody prepares the request body for forwarding without looking into it:
// small ones are read, others are streamed.
func (c *call) takeBody() refusal {
	if c.bodyRead {
		return refusal{}
	}
	n := c.ctx.Request.Header.ContentLength()
	if int64(n) > c.g.cfg.MaxBody {
		return refusal{reason: ReasonBodyTooLarge}
	}
	if n >= 0 && n <= smallBody || !c.ctx.Request.IsBodyStream() {
		_, ref := c.readBody(c.g.cfg.MaxBody)
		return ref
	}
	c.upload = upload{r: c.ctx.RequestBodyStream(), left: c.g.cfg.MaxBody}
	return refusal{}
}

// readBody reads the request body whole. The bytes live as long as the call.
func (c *call) readBody(limit int64) ([]byte, refusal) {
	if c.bodyRead {
		return c.body, refusal{}
	}
	in := &c.ctx.Request
	n := int64(in.Header.ContentLength())
	if n > limit {
		return nil, refusal{reason: ReasonBodyTooLarge}
	}
	if !in.IsBodyStream() {
		c.body, c.bodyRead = in.Body(), true
		return c.body, refusal{}
	}
	if n > int64(cap(c.bodyBuf)) {
		c.bodyBuf = make([]byte, 0, n+1)
	}
	var err error
	c.bodyBuf, err = readAll(c.bodyBuf[:0], in.BodyStream(), limit)
	switch {
	case err == errTooLarge:
		return nil, refusal{reason: ReasonBodyTooLarge}
	case isTimeout(err):
		return nil, refusal{reason: ReasonRequestTimeout}
	case err != nil:
		return nil, refusal{reason: ReasonMalformed}
	}
	c.body, c.bodyRead = c.bodyBuf, true
	return c.body, refusal{}
}

// maxDiscard bounds how much of an unread body is thrown away to keep the
// connection; beyond it closing is cheaper.
const maxDiscard = 256 << 10

// discardBody makes sure that what is left of the request's body is not taken
// for the next request: it is read, or the connection closes behind the answer.
func (c *call) discardBody() {
	in := &c.ctx.Request
	if c.bodyRead || c.upload.ended || !in.IsBodyStream() {
		return
	}
	n := in.Header.ContentLength()
	if n >= 0 && n <= smallBody {
		return // fasthttp has read it
	}
	if c.upload.err == nil && n <= maxDiscard {
		left := int64(maxDiscard)
		if _, err := io.Copy(io.Discard, io.LimitReader(in.BodyStream(), left)); err == nil {
			var b [1]byte
			if n, err := in.BodyStream().Read(b[:]); n == 0 && err == io.EOF {
				return
			}
		}
	}
	c.ctx.Response.SetConnectionClose()
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// estimate is what the call may cost at most, as far as that can be told now:
// prompt by size, output by max_tokens times n, under a cap.
func (c *call) estimate() usage.Units {
	var est usage.Units
	est[usage.Call] = 1
	if !c.llm {
		return est
	}
	prompt := int64(len(c.body)/4) + 1
	var output int64
	if c.family != familyEmbeddings {
		output = c.pay.maxOutput
		if output == 0 {
			output = c.g.cfg.HoldDefault
		}
		if c.pay.choices > 1 {
			output *= min(c.pay.choices, 128)
		}
	}
	limit := c.g.cfg.HoldCap
	est[usage.InputToken] = min(prompt, limit)
	est[usage.OutputToken] = min(output, limit)
	est[usage.Token] = min(prompt+output, limit)
	return est
}
