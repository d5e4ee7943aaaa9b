package gateway

import "github.com/valyala/fasthttp"

// serveHealth answers /healthz and /readyz, which no product can own. It
// reports whether the request was one of them.
func (c *call) serveHealth() bool {
	var err error
	switch string(c.path) {
	case "/healthz":
	case "/readyz":
		err = c.g.Ready()
	default:
		return false
	}
	if !c.ctx.IsGet() && !c.ctx.IsHead() {
		return false
	}
	resp := &c.ctx.Response
	resp.Header.SetContentType("text/plain; charset=utf-8")
	resp.Header.SetBytesV("X-Request-Id", c.idText[:])
	resp.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	resp.SetBodyString("ok\n")
	if err != nil {
		resp.SetStatusCode(fasthttp.StatusServiceUnavailable)
		resp.SetBodyString(err.Error() + "\n")
	}
	c.discardBody()
	return true
}
