package gateway

// serveRealtime serves a realtime session.
func (c *call) serveRealtime() refusal {
	return refusal{reason: ReasonNoRoute}
}
