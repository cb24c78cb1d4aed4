// Package edge is what stands between the Traffic Controller and whoever can
// reach its port: it bounds what connections may hold up before they have asked
// for anything, finds out where a request really comes from, and keeps foreign
// web pages from using somebody's cookie.
package edge

import (
	"container/list"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

// Config is what an operator sets.
type Config struct {
	// ProxyProtocol makes every connection begin with a PROXY header, and come
	// from one of the TrustedProxies.
	ProxyProtocol  bool
	TrustedProxies []string // networks and addresses
	AllowedOrigins []string // besides a request's own host
	AnyOrigin      bool
	MaxPending     int // connections that have no request in progress
	// MaxPendingBytes bounds what those have sent of their requests.
	MaxPendingBytes int64
	// MaxPerUser and MaxPerAddress bound open streams; 0 for no limit.
	MaxPerUser, MaxPerAddress int
	MaxHeaderBytes            int64 // see HeadRoom
	// AnswerTimeout is how long a plain answer may take to be read, and
	// more for each part of it.
	AnswerTimeout time.Duration
}

// DefaultConfig returns the defaults that the flags show.
func DefaultConfig() Config {
	return Config{MaxPending: 2048, MaxPendingBytes: 4 << 20, MaxPerUser: 1000, MaxHeaderBytes: 64 << 10, AnswerTimeout: time.Minute}
}

// Flags declares every setting.
func (c *Config) Flags(f *daemon.Flags) {
	f.Bool(&c.ProxyProtocol, "proxy-protocol", "clients come through --trusted-proxy only, each connection with a PROXY header of version 1 or 2")
	f.Strings(&c.TrustedProxies, "trusted-proxy", "`network` or address of proxies whose X-Forwarded-For, X-Forwarded-Proto and PROXY headers are believed; may be given again")
	f.Strings(&c.AllowedOrigins, "allowed-origin", "`origin` whose pages may use a browser's cookie besides those of this host: scheme://host[:port], or *.domain for https; may be given again")
	f.Bool(&c.AnyOrigin, "any-origin", "let pages of every origin use a browser's cookie")
	f.Int(&c.MaxPending, "max-pending", "connections without a complete request; over it the oldest of them goes")
	f.Bytes(&c.MaxPendingBytes, "max-pending-bytes", "`size` of what these have sent of their requests; over it the one that sent most goes")
	f.Int(&c.MaxPerUser, "max-connections-per-user", "open streams of one user; 0 for no limit")
	f.Int(&c.MaxPerAddress, "max-connections-per-address", "open streams of one address, or IPv6 network of 64 bits; 0 for no limit")
	f.Bytes(&c.MaxHeaderBytes, "max-header-bytes", "`size` of a request's first line and headers; more is refused")
	f.Duration(&c.AnswerTimeout, "answer-timeout", "how long a client may take to read an answer that is no stream, with a second more for each 64 KiB")
}

// Validate adds all faults, each naming the flag and the limit.
func (c *Config) Validate(f *daemon.Faults) {
	for _, s := range c.TrustedProxies {
		if _, err := parseNetwork(s); err != nil {
			f.Addf("trusted-proxy", s, "has to be an address or a network such as 10.0.0.0/8")
		}
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		f.Addf("proxy-protocol", true, "needs --trusted-proxy: PROXY headers are believed from nobody else")
	}
	for _, s := range c.AllowedOrigins {
		if _, err := parseOrigin(s); err != nil {
			f.Addf("allowed-origin", s, "%v", err)
		}
	}
	daemon.Between(f, "max-pending", c.MaxPending, 16, 1_000_000)
	f.BytesBetween("max-pending-bytes", c.MaxPendingBytes, 1<<20, 1<<30)
	daemon.Between(f, "max-connections-per-user", c.MaxPerUser, 0, 1_000_000)
	daemon.Between(f, "max-connections-per-address", c.MaxPerAddress, 0, 1_000_000)
	f.BytesBetween("max-header-bytes", c.MaxHeaderBytes, 4<<10, 1<<20)
	daemon.Between(f, "answer-timeout", c.AnswerTimeout, time.Second, time.Hour)
}

// Edge is the edge of one listener. Its methods may be called concurrently.
type Edge struct {
	cfg     Config // static, with the next two
	trusted networks
	origins []origin

	limits limits
	counts [numRefusals]atomic.Uint64

	mu      sync.Mutex
	conns   map[net.Conn]*conn // by what lies below TLS
	pending list.List          // of *conn, the oldest first
	bytes   int64              // that the pending ones have sent
}

// conn is a connection that net/http has, or will get.
type conn struct {
	nc   net.Conn
	peer netip.AddrPort // by its PROXY header; zero without one

	waits atomic.Bool // it is pending; written with Edge.mu held

	// held by Edge.mu
	place *list.Element // in pending; nil when it is not
	bytes int64         // sent since it is pending
}

// New returns an Edge. The error names the setting at fault.
func New(cfg Config) (*Edge, error) {
	e := &Edge{cfg: cfg, conns: map[net.Conn]*conn{}}
	for _, s := range cfg.TrustedProxies {
		n, err := parseNetwork(s)
		if err != nil {
			return nil, fmt.Errorf("trusted-proxy %q: %w", s, err)
		}
		e.trusted = append(e.trusted, n)
	}
	for _, s := range cfg.AllowedOrigins {
		o, err := parseOrigin(s)
		if err != nil {
			return nil, fmt.Errorf("allowed-origin %q: %w", s, err)
		}
		e.origins = append(e.origins, o)
	}
	return e, nil
}

// Refusal is why somebody was not served.
type Refusal int

// The refusals. The first three close a connection, the others answer.
const (
	Pending     Refusal = iota // the oldest of too many pending connections
	NotProxy                   // went around the proxies
	ProxyHeader                // none, or one that cannot be read
	HTTP2                      // spoke HTTP/2
	Head                       // first line and headers are too large
	Body                       // too large, too slow, or broken
	Origin                     // of a foreign page
	User                       // has too many streams
	Address                    // likewise
	numRefusals
)

// String is the name that metrics have for it.
func (r Refusal) String() string {
	return [...]string{"pending", "not_proxy", "proxy_header", "http2", "head", "body", "origin", "user", "address"}[r]
}

// Refused returns how many were refused, by why.
func (e *Edge) Refused() map[Refusal]uint64 {
	m := make(map[Refusal]uint64, numRefusals)
	for r := range numRefusals {
		m[r] = e.counts[r].Load()
	}
	return m
}

// PendingNow is the number of pending connections.
func (e *Edge) PendingNow() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pending.Len()
}

func (e *Edge) refuse(r Refusal) { e.counts[r].Add(1) }
