package trafficcontroller

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/mtls"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/accesslog"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/edge"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/gateway"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/upstream"
)

// Config is what an operator sets. DefaultConfig returns one that lacks
// --doppler, and where UAA and Cloud Controller are, or
// --disable-access-control.
type Config struct {
	Name      string
	Addr      string
	AdminAddr string

	Dopplers        []string
	ResolveInterval time.Duration
	DopplerTLS      mtls.Files // empty for plaintext

	DisableAccessControl bool
	Access               auth.Config // but for Disabled

	Edge edge.Config // towards clients

	SystemDomain string // of the platform
	EndpointPort int    // where the world reaches doppler.<SystemDomain>
	SecurityLog  string // file; empty for none
	// SecurityLogEscape is html, as the old one did, or cef.
	SecurityLogEscape string
	IP                string // of this node, as the security log has it

	TailQueueBytes    int64
	TailsQueueBytes   int64
	MaxConnections    int
	MaxRecent         int
	GatherTimeout     time.Duration
	StuckTimeout      time.Duration
	SlowTimeout       time.Duration
	Slow              slowPolicies
	ReadTimeout       time.Duration
	Heartbeat         time.Duration
	SocketBufferBytes int64
	DrainGrace        time.Duration

	LogCacheSettle time.Duration // how old what a reader of /api/v1 that goes forward gets has to be
	LogCacheReads  int           // of it, at a time
	// LogCacheQueries is how many PromQL queries run at a time.
	LogCacheQueries int

	TLSCert, TLSKey string // towards clients; empty for plaintext

	AgentAddr      string // where self-metrics go; empty for nowhere
	AgentTLS       mtls.Files
	MetricInterval time.Duration
}

// DefaultConfig returns the defaults that the flags show.
func DefaultConfig() *Config {
	name, err := os.Hostname()
	if err != nil {
		name = "trafficcontroller"
	}
	return &Config{
		Name: name, Addr: ":8081", AdminAddr: "127.0.0.1:9081", ResolveInterval: 5 * time.Second,
		TailQueueBytes: 8 << 20, TailsQueueBytes: 256 << 20, MaxConnections: 20_000, MaxRecent: 10_000,
		GatherTimeout: 3 * time.Second, StuckTimeout: time.Minute, SlowTimeout: 5 * time.Second, Slow: defaultSlow(), ReadTimeout: gateway.DefaultStreamTimeout, Heartbeat: 5 * time.Second,
		SocketBufferBytes: 256 << 10, DrainGrace: 10 * time.Second, MetricInterval: time.Minute,
		SecurityLogEscape: string(accesslog.HTML), Access: auth.DefaultConfig(), Edge: edge.DefaultConfig(), EndpointPort: 443, LogCacheSettle: time.Second, LogCacheReads: 64, LogCacheQueries: 8,
	}
}

// Flags declares every setting.
func (c *Config) Flags(f *daemon.Flags) {
	f.Group("Node")
	f.String(&c.Name, "name", "`name` of this Traffic Controller")
	f.String(&c.Addr, "addr", "`address` of the listener for clients")
	f.String(&c.AdminAddr, "admin-addr", "`address` of metrics, health, pprof and views")
	f.Duration(&c.DrainGrace, "drain-grace", "over how long connections are closed after SIGTERM")
	f.Group("Dopplers")
	f.Strings(&c.Dopplers, "doppler", "where Dopplers are: host:port, dns:///name:port or file:PATH; may be given again")
	f.Duration(&c.ResolveInterval, "resolve-interval", "how often names and files are looked up")
	f.String(&c.DopplerTLS.Cert, "doppler-tls-cert", "`file` with the certificate shown to Dopplers")
	f.String(&c.DopplerTLS.Key, "doppler-tls-key", "`file` with its key")
	f.String(&c.DopplerTLS.CA, "doppler-tls-ca", "`file` with the authority of the Dopplers' certificates")
	f.Group("Access")
	f.Bool(&c.DisableAccessControl, "disable-access-control", "let everybody read everything")
	c.Access.Flags(f)
	f.String(&c.SecurityLog, "security-log", "`file` that gets a line in CEF for every request, refused ones too, that net/http could read; SIGHUP opens it anew")
	f.String(&c.SecurityLogEscape, "security-log-escape", "`how` values are escaped there: html, as Loggregator does, or cef, as the format asks")
	f.String(&c.IP, "ip", "`address` of this node, as the security log has it; without, that of the listener")
	f.Group("Endpoint")
	f.String(&c.SystemDomain, "system-domain", "`domain` of the platform: clients reach this node as doppler.DOMAIN, which cookies and the discovery document say")
	f.Int(&c.EndpointPort, "logger-endpoint-port", "port of doppler.DOMAIN in the discovery document")
	f.Group("TLS")
	f.String(&c.TLSCert, "tls-cert", "`file` with the certificate shown to clients")
	f.String(&c.TLSKey, "tls-key", "`file` with its key")
	f.Group("Edge")
	c.Edge.Flags(f)
	f.Group("Limits")
	f.Int(&c.MaxConnections, "max-connections", "open streams")
	f.Int(&c.MaxRecent, "max-recent", "envelopes of history a tail may ask for")
	f.Bytes(&c.TailQueueBytes, "tail-queue-bytes", "`size` of what waits for one tail")
	f.Bytes(&c.TailsQueueBytes, "tails-queue-bytes", "`size` of what waits for all tails, shared frames counted once")
	f.Bytes(&c.SocketBufferBytes, "socket-buffer-bytes", "`size` of each connection's kernel buffers, per direction")
	f.Duration(&c.StuckTimeout, "stuck-timeout", "a client that takes nothing for so long is cut")
	f.Duration(&c.SlowTimeout, "slow-timeout", "likewise for a client of the old framing, one envelope per message")
	c.Slow.flags(f)
	f.Duration(&c.ReadTimeout, "read-timeout", "after which a stream of /v2/read ends and its client comes back")
	f.Duration(&c.GatherTimeout, "gather-timeout", "how long the history of one Doppler waits for that of another")
	f.Duration(&c.Heartbeat, "heartbeat", "longest silence on a stream of batches; a reader takes two of them for a dead path")
	f.Group("Log Cache")
	f.Duration(&c.LogCacheSettle, "log-cache-settle", "how long envelopes may take from their timestamp to a Doppler without being missed by who reads /api/v1/read again and again; so much later they show there")
	f.Int(&c.LogCacheReads, "log-cache-reads", "reads under /api/v1 at a time")
	f.Int(&c.LogCacheQueries, "log-cache-queries", "PromQL queries at a time")
	f.Group("Self-metrics")
	f.String(&c.AgentAddr, "agent-addr", "gRPC `address` that the own metrics are emitted to, an agent or a Doppler")
	f.String(&c.AgentTLS.Cert, "agent-tls-cert", "`file` with the certificate shown to it")
	f.String(&c.AgentTLS.Key, "agent-tls-key", "`file` with its key")
	f.String(&c.AgentTLS.CA, "agent-tls-ca", "`file` with the authority of its certificate")
	f.Duration(&c.MetricInterval, "metric-interval", "how often they are emitted")
	f.Inherit([]string{"TRAFFIC_CONTROLLER_", "ROUTER_"}, oldJob()...)
}

// endpoint is where the world reaches this node; empty if it is not known.
func (c *Config) endpoint() string {
	if c.SystemDomain == "" {
		return ""
	}
	return net.JoinHostPort("doppler."+c.SystemDomain, strconv.Itoa(c.EndpointPort))
}

// oldJob is the environment of Loggregator's job, and what of the RLP gateway's
// is of use here (protocol/05, section 9).
func oldJob() []daemon.Inherited {
	return []daemon.Inherited{
		{Variable: "TRAFFIC_CONTROLLER_OUTGOING_DROPSONDE_PORT", Sets: []string{"addr"}, Convert: daemon.Port(0)},
		{Variable: "TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE", Sets: []string{"tls-cert"}},
		{Variable: "TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE", Sets: []string{"tls-key"}},
		{Variable: "TRAFFIC_CONTROLLER_IP", Sets: []string{"ip"}},
		{Variable: "TRAFFIC_CONTROLLER_SYSTEM_DOMAIN", Sets: []string{"system-domain"}},
		{Variable: "TRAFFIC_CONTROLLER_API_HOST", Sets: []string{"cc-addr"}},
		{Variable: "TRAFFIC_CONTROLLER_UAA_HOST", Sets: []string{"uaa-addr"}},
		{Variable: "TRAFFIC_CONTROLLER_UAA_CA_CERT", Sets: []string{"uaa-ca"}},
		{Variable: "TRAFFIC_CONTROLLER_UAA_CLIENT", Sets: []string{"uaa-client"}},
		{Variable: "TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET", Sets: []string{"uaa-client-secret"}},
		{Variable: "TRAFFIC_CONTROLLER_SKIP_CERT_VERIFY", Sets: []string{"skip-cert-verify"}},
		{Variable: "TRAFFIC_CONTROLLER_SECURITY_EVENT_LOG", Sets: []string{"security-log"}},
		{Variable: "TRAFFIC_CONTROLLER_PPROF_PORT", Sets: []string{"admin-addr"}, Convert: daemon.LocalPort},
		{Variable: "TRAFFIC_CONTROLLER_METRIC_EMITTER_INTERVAL", Sets: []string{"metric-interval"}},
		{Variable: "TRAFFIC_CONTROLLER_DISABLE_ACCESS_CONTROL", Sets: []string{"disable-access-control"}},
		{Variable: "CC_CERT_FILE", Sets: []string{"cc-tls-cert"}},
		{Variable: "CC_KEY_FILE", Sets: []string{"cc-tls-key"}},
		{Variable: "CC_CA_FILE", Sets: []string{"cc-tls-ca"}},
		{Variable: "CC_SERVER_NAME", Sets: []string{"cc-server-name"}},
		{Variable: "ROUTER_ADDRS", Sets: []string{"doppler"}, Convert: oldDopplers},
		{Variable: "ROUTER_CERT_FILE", Sets: []string{"doppler-tls-cert", "agent-tls-cert"}},
		{Variable: "ROUTER_KEY_FILE", Sets: []string{"doppler-tls-key", "agent-tls-key"}},
		{Variable: "ROUTER_CA_FILE", Sets: []string{"doppler-tls-ca", "agent-tls-ca"}},
		{Variable: "AGENT_GRPC_ADDRESS", Sets: []string{"agent-addr"}},
		{Variable: "LOG_ACCESS_ADDR_EXTERNAL", Sets: []string{"cc-external-addr"}},
		{Variable: "STREAM_TIMEOUT", Sets: []string{"read-timeout"}},
		{Variable: "USE_RFC339", Why: "every log line has a time as in RFC 3339"},
		{Variable: "LOG_CACHE_ADDR", Why: "recent logs are read from the Dopplers"},
		{Variable: "LOG_CACHE_CA_FILE", Why: "recent logs are read from the Dopplers"},
		{Variable: "LOG_CACHE_CERT_FILE", Why: "recent logs are read from the Dopplers"},
		{Variable: "LOG_CACHE_KEY_FILE", Why: "recent logs are read from the Dopplers"},
		{Variable: "LOG_CACHE_SERVER_NAME", Why: "recent logs are read from the Dopplers"},
	}
}

// oldDopplers turns gRPC addresses into where the stream listeners are, on the
// next port, as a Doppler started by its old job has it. Names are looked up again
// and again: there may be several Dopplers behind one.
func oldDopplers(list string) (string, error) {
	var targets []string
	for addr := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(strings.TrimSpace(addr))
		if err != nil {
			return "", fmt.Errorf("%.100q is not host:port", addr)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || n == 65535 {
			return "", fmt.Errorf("%.100q has no port from 1 to 65534", addr)
		}
		target := net.JoinHostPort(host, strconv.FormatUint(n+1, 10))
		if net.ParseIP(host) == nil {
			target = "dns:///" + target
		}
		targets = append(targets, target)
	}
	return strings.Join(targets, ","), nil
}

// Validate returns all faults at once, each naming the flag and the limit.
func (c *Config) Validate() error {
	f := &daemon.Faults{}
	if c.Name == "" || len(c.Name) > 128 {
		f.Addf("name", c.Name, "has to have 1 to 128 bytes")
	}
	f.Address("addr", c.Addr)
	if !slices.Contains(accesslog.Escapes(), c.SecurityLogEscape) {
		f.Addf("security-log-escape", c.SecurityLogEscape, "is none of %v", accesslog.Escapes())
	}
	f.Address("admin-addr", c.AdminAddr)
	if len(c.Dopplers) == 0 {
		f.Addf("doppler", "", "is needed at least once")
	}
	for _, d := range c.Dopplers {
		if _, err := upstream.ParseTarget(d); err != nil {
			f.Addf("doppler", d, "%v", err)
		}
	}
	if err := c.Access.Validate(); !c.DisableAccessControl && err != nil {
		f.Addf("disable-access-control", false, "so who may read what has to be known; what that lacks follows")
		f.Join(err)
	}
	c.Edge.Validate(f)
	daemon.Between(f, "logger-endpoint-port", c.EndpointPort, 1, 65535)
	daemon.Between(f, "resolve-interval", c.ResolveInterval, 100*time.Millisecond, time.Hour)
	daemon.Between(f, "max-connections", c.MaxConnections, 1, 1_000_000)
	daemon.Between(f, "max-recent", c.MaxRecent, 1, 100_000)
	f.BytesBetween("tail-queue-bytes", c.TailQueueBytes, 64<<10, 1<<30)
	f.BytesBetween("tails-queue-bytes", c.TailsQueueBytes, 1<<20, 1<<40)
	f.BytesBetween("socket-buffer-bytes", c.SocketBufferBytes, 4<<10, 64<<20)
	daemon.Between(f, "stuck-timeout", c.StuckTimeout, time.Second, time.Hour)
	daemon.Between(f, "slow-timeout", c.SlowTimeout, time.Second, time.Hour)
	c.Slow.validate(f)
	daemon.Between(f, "read-timeout", c.ReadTimeout, time.Second, 24*time.Hour)
	daemon.Between(f, "gather-timeout", c.GatherTimeout, 100*time.Millisecond, time.Minute)
	daemon.Between(f, "log-cache-settle", c.LogCacheSettle, 0, time.Minute)
	daemon.Between(f, "log-cache-reads", c.LogCacheReads, 1, 10_000)
	daemon.Between(f, "log-cache-queries", c.LogCacheQueries, 1, 1000)
	daemon.Between(f, "heartbeat", c.Heartbeat, 100*time.Millisecond, time.Minute)
	daemon.Between(f, "drain-grace", c.DrainGrace, 0, time.Hour)
	daemon.Between(f, "metric-interval", c.MetricInterval, time.Second, time.Hour)
	if (c.TLSCert == "") != (c.TLSKey == "") {
		f.Addf("tls-cert", c.TLSCert, "--tls-cert and --tls-key go together")
	}
	if !c.DopplerTLS.Empty() && !c.DopplerTLS.Complete() {
		f.Addf("doppler-tls-cert", c.DopplerTLS.Cert, "--doppler-tls-cert, --doppler-tls-key and --doppler-tls-ca go together")
	}
	if !c.AgentTLS.Empty() && !c.AgentTLS.Complete() {
		f.Addf("agent-tls-cert", c.AgentTLS.Cert, "--agent-tls-cert, --agent-tls-key and --agent-tls-ca go together")
	}
	return f.Err()
}
