package doppler

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ingress"
	"github.com/a1ea6966/loggregator/doppler/internal/limit"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/mtls"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// Config is what an operator sets. DefaultConfig returns one that works.
type Config struct {
	Name       string // unique among the Dopplers of a platform
	GRPCAddr   string
	StreamAddr string
	AdminAddr  string

	RingBytes     int64
	RecentLogs    int // per source
	RecentMetrics int // per source and class
	RecentAge     time.Duration
	RecentBytes   int64

	IngressBytes     int64
	IngressWindow    int64
	MaxMessageBytes  int64
	MaxEnvelopeBytes int64
	MaxSourceIDBytes int

	SourceLimit      int      // envelopes of one source per second; 0 for any number
	SourceBurst      int      // after a pause; 0 for as many as SourceLimit
	SourceLimitTypes []string // which envelopes are limited

	Linger            time.Duration
	WindowBytes       int64
	AckTimeout        time.Duration
	StuckTimeout      time.Duration
	SlowCall          slow.Policy
	Heartbeat         time.Duration
	MaxWatches        int
	MaxSubscriptions  int
	SocketBufferBytes int64

	DrainGrace     time.Duration
	MetricInterval time.Duration // of self-metrics in the Firehose; 0 for none

	TLS     mtls.Files // gRPC and stream listener; empty for plaintext
	Allowed allowed    // clients, by the names in their certificates
}

// DefaultConfig returns the defaults that the flags show.
func DefaultConfig() *Config {
	name, err := os.Hostname()
	if err != nil {
		name = "doppler"
	}
	return &Config{
		Name: name, GRPCAddr: ":8082", StreamAddr: ":8083", AdminAddr: "127.0.0.1:9082",
		RingBytes:  max(daemon.MemoryLimit()/4>>20<<20, ring.DefaultBytes),
		RecentLogs: 1000, RecentMetrics: 100, RecentBytes: 128 << 20,
		IngressBytes: 512 << 20, IngressWindow: 512 << 10, MaxMessageBytes: 10 << 20, MaxEnvelopeBytes: 1 << 20, MaxSourceIDBytes: 256,
		Linger: 2 * time.Minute, WindowBytes: 2 << 20, AckTimeout: 30 * time.Second,
		StuckTimeout: time.Minute, SlowCall: slow.Policy{Age: 30 * time.Second, Bytes: 64 << 20}, Heartbeat: 4 * time.Second,
		SourceLimitTypes: []string{"log"},
		MaxWatches:       100_000, MaxSubscriptions: 10_000, SocketBufferBytes: 256 << 10,
		DrainGrace: 10 * time.Second, MetricInterval: 5 * time.Second, Allowed: defaultAllowed(),
	}
}

// Flags declares every setting.
func (c *Config) Flags(f *daemon.Flags) {
	f.Group("Node")
	f.String(&c.Name, "name", "`name` of this Doppler, unique on the platform; part of every envelope's identity")
	f.String(&c.GRPCAddr, "grpc-addr", "`address` of the gRPC listener for producers")
	f.String(&c.StreamAddr, "stream-addr", "`address` of the WebSocket listener for Traffic Controllers")
	f.String(&c.AdminAddr, "admin-addr", "`address` of metrics, health, pprof and views")
	f.Duration(&c.DrainGrace, "drain-grace", "how long readers may take what is left after SIGTERM")
	f.Duration(&c.MetricInterval, "metric-interval", "how often the Doppler's own metrics are emitted; 0 for never")
	f.Group("Memory")
	f.Bytes(&c.RingBytes, "ring-bytes", "`size` of the ring, index included; default a quarter of the memory limit")
	f.Bytes(&c.RecentBytes, "recent-bytes", "`size` of the recent store of all sources together")
	f.Int(&c.RecentLogs, "recent-logs", "newest logs kept per source beyond the ring")
	f.Duration(&c.RecentAge, "recent-age", "what has an older timestamp is not served of the past, only to readers that come back; 0s for any age")
	f.Int(&c.RecentMetrics, "recent-metrics", "newest envelopes kept per source of each other class")
	f.Bytes(&c.IngressBytes, "ingress-bytes", "`size` of what is received and not yet appended")
	f.Bytes(&c.IngressWindow, "ingress-window-bytes", "`size` of what one producer's stream may be ahead of the Doppler; with --ingress-bytes it bounds the number of streams")
	f.Bytes(&c.SocketBufferBytes, "socket-buffer-bytes", "`size` of each connection's kernel buffers, per direction")
	f.Group("Limits of input")
	f.Bytes(&c.MaxMessageBytes, "max-message-bytes", "largest gRPC message")
	f.Bytes(&c.MaxEnvelopeBytes, "max-envelope-bytes", "largest envelope")
	f.Int(&c.MaxSourceIDBytes, "max-source-id-bytes", "longest source id")
	f.Int(&c.SourceLimit, "source-limit", "envelopes of one source taken per second; 0 for any number")
	f.Int(&c.SourceBurst, "source-burst", "envelopes of one source taken at once after a pause; 0 for as many as --source-limit")
	f.Strings(&c.SourceLimitTypes, "source-limit-type", "envelope `type` that --source-limit is about (log, counter, gauge, timer, event); may be given again, all of a source count together")
	f.Group("Readers")
	f.Duration(&c.Linger, "linger", "how long a subscription without members keeps its place")
	f.Bytes(&c.WindowBytes, "window-bytes", "`size` of what is on its way to one Firehose client")
	f.Duration(&c.AckTimeout, "ack-timeout", "after so long without progress envelopes are handed to another member")
	f.Duration(&c.StuckTimeout, "stuck-timeout", "a connection that takes nothing for so long is closed")
	f.Var(slow.NewFlag(&c.SlowCall), "slow-call", "`policy` for calls over gRPC that stay further behind than age or bytes: drop or cut")
	f.Duration(&c.Heartbeat, "heartbeat", "longest silence on a connection; a reader takes two of them for a dead path")
	f.Int(&c.MaxWatches, "max-watches", "watched sources per tail link")
	f.Int(&c.MaxSubscriptions, "max-subscriptions", "connections of readers")
	f.Group("TLS")
	f.String(&c.TLS.Cert, "tls-cert", "`file` with the certificate of both listeners; clients must show one too")
	f.String(&c.TLS.Key, "tls-key", "`file` with its key")
	f.String(&c.TLS.CA, "tls-ca", "`file` with the authority that clients' certificates are signed by")
	f.Strings(&c.TLS.Suites, "tls-cipher-suite", "`name` of a cipher suite taken in TLS 1.2; may be given again; without, both that Loggregator speaks")
	c.Allowed.flags(f)
	f.Inherit([]string{"ROUTER_"}, oldJob()...)
}

// oldJob is the environment of Loggregator's job (protocol/05, section 9). The
// stream listener, which that job does not have, is on the port after the
// gRPC listener's: so a Traffic Controller finds it.
func oldJob() []daemon.Inherited {
	return []daemon.Inherited{
		{Variable: "ROUTER_PORT", Sets: []string{"grpc-addr"}, Convert: daemon.Port(0)},
		{Variable: "ROUTER_PORT", Sets: []string{"stream-addr"}, Convert: daemon.Port(1)},
		{Variable: "ROUTER_CERT_FILE", Sets: []string{"tls-cert"}},
		{Variable: "ROUTER_KEY_FILE", Sets: []string{"tls-key"}},
		{Variable: "ROUTER_CA_FILE", Sets: []string{"tls-ca"}},
		{Variable: "ROUTER_CIPHER_SUITES", Sets: []string{"tls-cipher-suite"}, Convert: oldSuites},
		{Variable: "ROUTER_PPROF_PORT", Sets: []string{"admin-addr"}, Convert: daemon.LocalPort},
		{Variable: "ROUTER_METRIC_BATCH_INTERVAL_MILLISECONDS", Sets: []string{"metric-interval"}, Convert: daemon.Milliseconds},
		{Variable: "ROUTER_METRIC_SOURCE_ID", Why: "the own metrics always have the source id doppler"},
		{Variable: "INGRESS_BUFFER_SIZE", Why: "what waits is bounded in bytes, see --ring-bytes and --ingress-bytes"},
		{Variable: "EGRESS_BUFFER_SIZE", Why: "there is no queue per subscriber, see --ring-bytes"},
		{Variable: "AGENT_GRPC_ADDRESS", Why: "the own metrics go straight into the ring"},
		{Variable: "USE_RFC339", Why: "every log line has a time as in RFC 3339"},
	}
}

// oldSuites takes suites separated by colons, by the names of OpenSSL, as the old
// job has them (protocol/01, "Server names and certificates"), or of RFC 5289.
func oldSuites(list string) (string, error) {
	return strings.NewReplacer(":", ",",
		"ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
		"ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256").Replace(list), nil
}

// maxMessageLimit is what any agent can send.
const maxMessageLimit = 64 << 20

// Validate returns all faults at once, each naming the flag and the limit.
func (c *Config) Validate() error {
	f := &daemon.Faults{}
	if c.Name == "" || len(c.Name) > 128 {
		f.Addf("name", c.Name, "has to have 1 to 128 bytes")
	}
	f.Address("grpc-addr", c.GRPCAddr)
	f.Address("stream-addr", c.StreamAddr)
	f.Address("admin-addr", c.AdminAddr)
	f.BytesBetween("ring-bytes", c.RingBytes, ring.MinBytes, 1<<42)
	f.BytesBetween("recent-bytes", c.RecentBytes, 1<<20, 1<<42)
	daemon.Between(f, "recent-logs", c.RecentLogs, 0, 1_000_000)
	daemon.Between(f, "recent-age", c.RecentAge, 0, 10*365*24*time.Hour)
	daemon.Between(f, "recent-metrics", c.RecentMetrics, 0, 1_000_000)
	f.BytesBetween("ingress-window-bytes", c.IngressWindow, ingress.MinWindow, 16<<20)
	f.BytesBetween("ingress-bytes", c.IngressBytes, ingress.BytesNeeded(int(c.IngressWindow)), 1<<40)
	f.BytesBetween("max-message-bytes", c.MaxMessageBytes, 64<<10, maxMessageLimit)
	f.BytesBetween("max-envelope-bytes", c.MaxEnvelopeBytes, 1<<10, c.MaxMessageBytes)
	if c.MaxEnvelopeBytes > c.RingBytes/8 {
		f.Addf("max-envelope-bytes", daemon.FormatBytes(c.MaxEnvelopeBytes), "may be at most an eighth of --ring-bytes (%s)", daemon.FormatBytes(c.RingBytes))
	}
	daemon.Between(f, "max-source-id-bytes", c.MaxSourceIDBytes, 36, 4096)
	daemon.Between(f, "source-limit", c.SourceLimit, 0, limit.MaxRate)
	daemon.Between(f, "source-burst", c.SourceBurst, 0, limit.MaxBurst)
	if _, err := envelope.MaskOf(c.SourceLimitTypes...); err != nil {
		f.Addf("source-limit-type", strings.Join(c.SourceLimitTypes, ","), "%v", err)
	}
	daemon.Between(f, "linger", c.Linger, 0, 24*time.Hour)
	f.BytesBetween("window-bytes", c.WindowBytes, 64<<10, 64<<20)
	daemon.Between(f, "ack-timeout", c.AckTimeout, time.Second, time.Hour)
	daemon.Between(f, "stuck-timeout", c.StuckTimeout, time.Second, time.Hour)
	c.SlowCall.Validate(f, "slow-call")
	daemon.Between(f, "heartbeat", c.Heartbeat, 100*time.Millisecond, time.Minute)
	daemon.Between(f, "max-watches", c.MaxWatches, 1, 10_000_000)
	daemon.Between(f, "max-subscriptions", c.MaxSubscriptions, 1, 1_000_000)
	f.BytesBetween("socket-buffer-bytes", c.SocketBufferBytes, 4<<10, 64<<20)
	daemon.Between(f, "drain-grace", c.DrainGrace, 0, time.Hour)
	daemon.Between(f, "metric-interval", c.MetricInterval, 0, time.Hour)
	c.Allowed.validate(f)
	for _, name := range c.TLS.Suites {
		if !slices.Contains(mtls.Suites(), name) {
			f.Addf("tls-cipher-suite", fmt.Sprintf("%.100q", name), "is none of %v", mtls.Suites())
		}
	}
	if !c.TLS.Empty() && !c.TLS.Complete() {
		f.Addf("tls-cert", c.TLS.Cert, "--tls-cert, --tls-key and --tls-ca go together")
	}
	return f.Err()
}
