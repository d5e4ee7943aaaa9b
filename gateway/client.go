package gateway

import (
	"bytes"
	"net"
	"net/netip"
)

// address is the client's own address: of the connection, or where that comes
// from a trusted proxy the one the proxies tell. They are read from the right:
// the nearest that is no trusted proxy is the client, and whatever it wrote
// itself stands further left and is not believed.
func (c *call) address() netip.Addr {
	if c.client.IsValid() {
		return c.client
	}
	c.client = remoteAddr(c.ctx.RemoteAddr())
	if !c.behindProxy() {
		return c.client
	}
	c.eachHop(func(hop []byte) bool {
		a, ok := parseHop(hop)
		if !ok {
			return false // what stands further left was told by somebody unknown
		}
		c.client = a
		return within(c.g.cfg.TrustedProxies, a)
	})
	return c.client
}

func remoteAddr(addr net.Addr) netip.Addr {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// eachHop calls f for each address the proxies tell, the nearest first, until it
// returns false.
func (c *call) eachHop(f func(hop []byte) bool) {
	name := "x-forwarded-for"
	if c.g.cfg.Forwarded {
		name = "forwarded"
	}
	for i := len(c.fields) - 1; i >= 0; i-- {
		fl := &c.fields[i]
		if fl.kind != ours || !sameField(fl.name, name) {
			continue
		}
		for list := fl.value; len(list) > 0; {
			var hop []byte
			list, hop = lastOf(list)
			if c.g.cfg.Forwarded {
				hop = forwardedParam(hop, "for")
			}
			if !f(hop) {
				return
			}
		}
	}
}

// lastOf cuts the last element off a comma-separated list. Commas within quotes
// do not separate.
func lastOf(list []byte) (rest, last []byte) {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == '"' && (i == 0 || list[i-1] != '\\'):
			quoted = !quoted
		case list[i] == ',' && !quoted:
			return list[:i], trimBlank(list[i+1:])
		}
	}
	return nil, trimBlank(list)
}

// forwardedParam returns a parameter of one element of Forwarded (RFC 7239
// section 4), unquoted; nil when it is not there.
func forwardedParam(element []byte, name string) []byte {
	for rest := element; len(rest) > 0; {
		var pair []byte
		end, quoted := len(rest), false
		for i, b := range rest {
			if b == '"' {
				quoted = !quoted
			}
			if b == ';' && !quoted {
				end = i
				break
			}
		}
		pair, rest = rest[:end], rest[min(end+1, len(rest)):]
		k, v, ok := bytes.Cut(pair, []byte{'='})
		if !ok || !equalFold(trimBlank(k), name) {
			continue
		}
		v = trimBlank(v)
		if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
			v = bytes.ReplaceAll(v[1:len(v)-1], []byte{'\\'}, nil)
		}
		return v
	}
	return nil
}

// parseHop reads an address as proxies write it: with or without a port, IPv6
// in brackets or not.
func parseHop(hop []byte) (netip.Addr, bool) {
	text := string(bytes.TrimSpace(hop))
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	if n := len(text); n > 2 && text[0] == '[' && text[n-1] == ']' {
		if a, err := netip.ParseAddr(text[1 : n-1]); err == nil {
			return a.Unmap().WithZone(""), true
		}
	}
	return netip.Addr{}, false
}

// forwarded returns what the nearest trusted proxy says of the client's request:
// "host" or "proto". nil: nothing, or there is no such proxy.
func (c *call) forwarded(what string) []byte {
	if !c.behindProxy() {
		return nil
	}
	name := "x-forwarded-" + what
	if c.g.cfg.Forwarded {
		name = "forwarded"
	}
	for i := len(c.fields) - 1; i >= 0; i-- {
		f := &c.fields[i]
		if f.kind != ours || !sameField(f.name, name) || len(f.value) == 0 {
			continue
		}
		_, last := lastOf(f.value)
		if c.g.cfg.Forwarded {
			return forwardedParam(last, what)
		}
		return last
	}
	return nil
}
