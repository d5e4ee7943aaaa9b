package admin

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"tollgate/internal/directory"
)

// Limits of a product.
const (
	maxUpstreams       = 32
	maxUpstreamHeaders = 32
	maxModels          = 256
	maxPath            = 512
)

// reservedPaths belong to the gateway itself: LLM products answer below /v1,
// health checks and the mock's statistics beside it.
var reservedPaths = []string{"/v1", "/healthz", "/readyz", "/metrics", "/mock"}

var (
	hostPattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	pathPattern   = regexp.MustCompile(`^(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*$`)
	tokenPattern  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	methodPattern = regexp.MustCompile(`^[A-Z][A-Z-]{0,31}$`)
)

// hopHeaders are made or read by the gateway for each connection; an upstream's
// constant headers cannot set them.
var hopHeaders = []string{
	"connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization",
	"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "x-request-id",
}

// checkHost adds a fault unless host is empty or a lower-case host name.
func checkHost(f *faults, location, host string) {
	if host == "" {
		return
	}
	f.check(len(host) <= 253 && hostPattern.MatchString(host), location,
		"must be a host name in lower case without a port, such as api.example.com (write an international name in its xn-- form)")
}

// checkPath adds a fault unless path is one that a product can own. Paths are
// compared as text by the gateway, so only their one normal form is taken: no
// percent-encoding, no empty, "." or ".." segment, no slash at the end.
func checkPath(f *faults, location, host, path string) {
	switch {
	case path == "" && host != "":
		return // the whole host
	case path == "" || path == "/":
		f.add(location, "must name a path such as /weather; only a product with a host of its own may own every path (leave path empty then)")
	case len(path) > maxPath:
		f.add(location, fmt.Sprintf("must have at most %d bytes", maxPath))
	case !pathPattern.MatchString(path):
		f.add(location, "must be a path such as /weather/v2: segments of letters, digits and -._~!$&'()*+,;=:@ after single slashes, no slash at the end, no percent-encoding")
	case slices.ContainsFunc(strings.Split(path, "/"), func(seg string) bool { return seg == "." || seg == ".." }):
		f.add(location, "must not hold . or .. segments")
	default:
		for _, r := range reservedPaths {
			if path == r || strings.HasPrefix(path, r+"/") {
				f.add(location, "must not be "+r+" or below it, which the gateway itself answers")
				return
			}
		}
	}
}

// overlaps reports whether two routes could claim one request. A product owns
// its path and everything below, so neither path may lie below the other; a
// product without a host answers at every host.
func overlaps(hostA, pathA, hostB, pathB string) bool {
	if hostA != "" && hostB != "" && hostA != hostB {
		return false
	}
	return pathA == pathB || strings.HasPrefix(pathA, pathB+"/") || strings.HasPrefix(pathB, pathA+"/")
}

// checkMethods adds a fault for each method that is none.
func checkMethods(f *faults, location string, methods []string) {
	f.check(len(methods) <= 16, location, "must hold at most 16 methods")
	for i, m := range methods {
		at := location + "[" + strconv.Itoa(i) + "]"
		f.check(methodPattern.MatchString(m), at, "must be a method in upper case, such as GET")
		f.check(m != "CONNECT" && m != "TRACE", at, "cannot be published")
		f.check(!slices.Contains(methods[:i], m), at, "is listed twice")
	}
}

// checkModels adds a fault for each model that is none.
func checkModels(f *faults, location string, models []directory.Model) {
	f.check(len(models) > 0, location, "must name at least one model; the first is the default")
	f.check(len(models) <= maxModels, location, fmt.Sprintf("must hold at most %d models", maxModels))
	for i, m := range models {
		at := location + "[" + strconv.Itoa(i) + "]"
		checkText(f, at+".name", m.Name, 1, 128)
		checkText(f, at+".upstream", m.Upstream, 0, 128)
		f.check(!slices.ContainsFunc(models[:i], func(o directory.Model) bool { return o.Name == m.Name }), at+".name", "is listed twice")
	}
}

// checkUpstreamURL adds a fault unless text is an address that can be forwarded
// to, and returns its normal form. publicOnly refuses addresses of private
// networks; those of the machine's own link (cloud metadata among them) are
// always refused to sellers.
func checkUpstreamURL(f *faults, location, text string, trusted, publicOnly bool) string {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Opaque != "" || u.Hostname() == "" || len(text) > 2048 {
		f.add(location, "must be a URL such as https://backend.example.com/base, http or https")
		return text
	}
	f.check(u.User == nil, location, "must not hold a user name or password: put them in a header of the upstream, which is stored sealed")
	f.check(u.RawQuery == "" && !u.ForceQuery && u.Fragment == "", location, "must not have a query or fragment")
	if p := u.Port(); p != "" {
		n, err := strconv.Atoi(p)
		f.check(err == nil && n > 0 && n < 65536, location, "must have a port from 1 to 65535")
	} else {
		f.check(!strings.HasSuffix(u.Host, ":"), location, "must have a port after the colon")
	}
	host := strings.ToLower(u.Hostname())
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		unusable := addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast()
		f.check(trusted || !unusable, location, "must not be an address of the gateway's own link")
		f.check(trusted || !publicOnly || !(addr.IsPrivate() || addr.IsLoopback()), location, "must be a public address")
	} else {
		f.check(hostPattern.MatchString(strings.TrimSuffix(host, ".")), location, "must have a host name or an IP address")
		f.check(trusted || !publicOnly || host != "localhost" && !strings.HasSuffix(host, ".localhost"), location, "must be a public address")
	}
	u.Host = strings.ToLower(u.Host)
	return strings.TrimRight(u.String(), "/")
}

// checkUpstreamExtras adds a fault for each name of a model that the product
// does not have, and for TLS settings that cannot be.
func checkUpstreamExtras(f *faults, at string, p *Product, u *directory.Upstream, trusted bool) {
	f.check(len(u.Models) <= maxModels, at+".models", fmt.Sprintf("must hold at most %d models", maxModels))
	for i, m := range u.Models {
		at := at + ".models[" + strconv.Itoa(i) + "]"
		f.check(slices.ContainsFunc(p.Models, func(o directory.Model) bool { return o.Name == m.Name }), at+".name", "must be the name of one of the product's models")
		f.check(!slices.ContainsFunc(u.Models[:i], func(o directory.Model) bool { return o.Name == m.Name }), at+".name", "is listed twice")
		checkText(f, at+".upstream", m.Upstream, 1, 128)
	}
	f.check(strings.HasPrefix(u.URL, "https://") || u.TLS == (directory.UpstreamTLS{}), at+".tls", "belongs to https upstreams only")
	f.check(u.TLS.ServerName == "" || len(u.TLS.ServerName) <= 253 && hostPattern.MatchString(u.TLS.ServerName), at+".tls.server_name", "must be a host name in lower case")
	if _, err := u.TLS.Roots(); err != nil {
		f.add(at+".tls.ca_pem", err.Error())
	}
	f.check(len(u.TLS.CA) <= 65536, at+".tls.ca_pem", "must have at most 65536 bytes")
	f.check(trusted || !u.TLS.SkipVerify, at+".tls.skip_verify", "is for operators only: give the upstream's certificate in ca_pem instead")
}

// checkHeader adds a fault unless h can be sent to an upstream.
func checkHeader(f *faults, location string, h directory.KV) {
	f.check(len(h.Name) <= 128 && tokenPattern.MatchString(h.Name), location+".name", "must be a header name, such as X-Api-Key")
	f.check(!slices.Contains(hopHeaders, strings.ToLower(h.Name)), location+".name", "is set by the gateway for each call and cannot be constant")
	bad := strings.ContainsFunc(h.Value, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f })
	f.check(!bad && len(h.Value) <= 8192 && strings.TrimSpace(h.Value) == h.Value, location+".value", "must be at most 8192 bytes on one line, without space around")
}
