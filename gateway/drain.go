package gateway

import "time"

// drainWanted reports whether the rest of the answer is worth reading although
// the client left: for its usage.
func (c *call) drainWanted() bool {
	status := c.ex.Response.StatusCode()
	return c.llm && c.product.OnDisconnect != onDisconnectCancel && status >= 200 && status < 300 && (c.stream.parse || c.stream.scan != nil)
}

// detach cuts the call loose from the connection it came by, which fasthttp
// uses again.
func (c *call) detach() {
	c.ctx = nil
	c.path, c.query, c.route = nil, nil, route{}
	clear(c.fields)
	clear(c.listed)
	c.fields, c.listed = nil, nil
}

// drain reads the answer on to its end, within limits of time and size, so that
// the upstream's own usage is billed although the client left.
func (c *call) drain() {
	defer c.g.endDrain()
	timer := time.AfterFunc(c.g.cfg.DrainTimeout, c.ex.Interrupt)
	defer timer.Stop()
	c.readOn(c.g.cfg.DrainBytes)
	c.close()
}

// readOn reads up to limit bytes of the answer.
func (c *call) readOn(limit int64) {
	r := &c.stream
	var err error
	defer r.recovered(&err)
	for err == nil {
		var b []byte
		b, err = r.step()
		if limit -= int64(len(b)); limit < 0 && err == nil {
			c.incomplete = true
			return
		}
	}
}
