package edge

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// origin is a pattern of origins.
type origin struct {
	scheme, host, port string
	below              bool // any host that ends in host, which begins with a dot, at any port
}

var (
	errOrigin = errors.New("has to be scheme://host[:port], or *.domain")
	defaults  = map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"}
)

func parseOrigin(s string) (origin, error) {
	if domain, ok := strings.CutPrefix(s, "*."); ok {
		if domain == "" || strings.ContainsAny(domain, "*/:@ ") {
			return origin{}, errOrigin
		}
		return origin{scheme: "https", host: "." + strings.ToLower(domain), below: true}, nil
	}
	return splitOrigin(s)
}

// splitOrigin takes an Origin header apart. A port is never empty.
func splitOrigin(s string) (origin, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" || u.Path != "" && u.Path != "/" ||
		u.RawQuery != "" || u.Fragment != "" || strings.Contains(u.Host, "*") {
		return origin{}, errOrigin
	}
	o := origin{scheme: strings.ToLower(u.Scheme), host: strings.ToLower(u.Hostname()), port: u.Port()}
	if o.port == "" {
		o.port = defaults[o.scheme]
	}
	if o.port == "" {
		return origin{}, errOrigin
	}
	return o, nil
}

func (o origin) fits(of origin) bool {
	if o.below {
		return of.scheme == o.scheme && strings.HasSuffix(of.host, o.host)
	}
	return o == of
}

// originAllowed tells whether the page that a request was sent by may do so. Who
// brings a token of its own may be on any page: only a browser's cookie comes
// along unasked. /set-cookie makes that cookie.
func (e *Edge) originAllowed(r *http.Request) bool {
	values := r.Header.Values("Origin")
	if len(values) == 0 || e.cfg.AnyOrigin || !bornByCookie(r) && path.Clean(r.URL.Path) != "/set-cookie" {
		return true
	}
	o, err := splitOrigin(values[0])
	if err != nil || len(values) > 1 {
		return false
	}
	if own(o, r) {
		return true
	}
	for _, allowed := range e.origins {
		if allowed.fits(o) {
			return true
		}
	}
	return false
}

// bornByCookie tells whether the token of a request is the cookie's.
func bornByCookie(r *http.Request) bool {
	if r.Header.Get("Authorization") != "" {
		return false
	}
	_, err := r.Cookie("authorization")
	return err == nil
}

// own tells whether a page comes from the host that it asks.
func own(o origin, r *http.Request) bool {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host, port = strings.Trim(r.Host, "[]"), defaults[From(r).Scheme]
	}
	return o.host == strings.ToLower(host) && o.port == port
}
