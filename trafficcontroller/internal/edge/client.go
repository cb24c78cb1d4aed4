package edge

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Client is where a request comes from, as far as it can be trusted.
type Client struct {
	Addr      netip.Addr // invalid if it is not known
	Port      uint16     // 0 if it is not known
	Scheme    string     // http or https, as the client used it
	Forwarded bool       // a trusted proxy sent the request
}

// Host is the address as text; empty if it is not known.
func (c Client) Host() string {
	if !c.Addr.IsValid() {
		return ""
	}
	return c.Addr.String()
}

// PortText is the port as text; empty if it is not known.
func (c Client) PortText() string {
	if c.Port == 0 {
		return ""
	}
	return strconv.Itoa(int(c.Port))
}

// String is host:port, or the host alone.
func (c Client) String() string {
	if c.Port == 0 || !c.Addr.IsValid() {
		return c.Host()
	}
	return netip.AddrPortFrom(c.Addr, c.Port).String()
}

type clientKey struct{}

// From says where a request comes from that Identify has seen.
func From(r *http.Request) Client {
	c, _ := r.Context().Value(clientKey{}).(Client)
	return c
}

// networks are those of trusted proxies.
type networks []netip.Prefix

func (n networks) has(a netip.Addr) bool {
	for _, p := range n {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// parseNetwork reads a network or an address.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// client finds out where r comes from: the peer, or, as long as that is a
// trusted proxy, whom it names last.
func (e *Edge) client(r *http.Request) Client {
	c := Client{Scheme: "http"}
	if r.TLS != nil {
		c.Scheme = "https"
	}
	if peer, err := parseHop(r.RemoteAddr); err == nil {
		c.Addr, c.Port = peer.Addr(), peer.Port()
	}
	if !e.trusted.has(c.Addr) {
		return c
	}
	c.Forwarded = true
	switch proto := last(r.Header.Values("X-Forwarded-Proto")); strings.ToLower(proto) {
	case "http", "https":
		c.Scheme = strings.ToLower(proto)
	}
	hop := e.hop(netip.AddrPortFrom(c.Addr, c.Port), r.Header.Values("X-Forwarded-For"))
	c.Addr, c.Port = hop.Addr(), hop.Port()
	return c
}

// last is the last element of a header.
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	value := values[len(values)-1]
	return strings.TrimSpace(value[strings.LastIndexByte(value, ',')+1:])
}

// hop goes through X-Forwarded-For from its end, while who speaks is trusted.
// What cannot be read ends it: nobody knows who is before it.
func (e *Edge) hop(from netip.AddrPort, values []string) netip.AddrPort {
	for i := len(values) - 1; i >= 0; i-- {
		for rest := values[i]; rest != ""; {
			at := strings.LastIndexByte(rest, ',')
			named, err := parseHop(strings.TrimSpace(rest[at+1:]))
			if err != nil {
				return from
			}
			from, rest = named, rest[:max(at, 0)]
			if !e.trusted.has(from.Addr()) {
				return from
			}
		}
	}
	return from
}

// parseHop reads an address with or without a port.
func parseHop(s string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), nil
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	a, err := netip.ParseAddr(s)
	return netip.AddrPortFrom(a.Unmap().WithZone(""), 0), err
}
