// Package doppler is the node that takes envelopes in over gRPC, holds the
// newest in memory, and streams them to Traffic Controllers.
//
// New binds the ports, Run serves until its context ends and then drains.
package doppler

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/doppler/internal/egress"
	"github.com/a1ea6966/loggregator/doppler/internal/ingress"
	"github.com/a1ea6966/loggregator/doppler/internal/limit"
	"github.com/a1ea6966/loggregator/doppler/internal/recent"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

// Doppler is one node. Its methods may be called concurrently.
type Doppler struct {
	// static after New
	cfg      Config
	log      *slog.Logger
	epoch    uint64
	ring     *ring.Ring
	recent   *recent.Store
	egress   *egress.Server
	ingress  *ingress.Server
	limiter  *limit.Limiter // nil without --source-limit
	registry *prometheus.Registry
	refusals *daemon.Refusals
	guard    *guard
	shakes   *daemon.Handshakes

	grpc, stream, admin net.Listener
	streamTLS           *tls.Config

	draining atomic.Bool

	// Never touched, so it takes no memory, but the collector counts it: what
	// lives in our heap is so little that it would run all the time.
	heapFloor []byte
}

const heapFloor = 32 << 20

// New makes a Doppler and binds its ports. Run or Close has to follow. The
// error names the setting or address at fault.
func New(cfg Config, log *slog.Logger) (*Doppler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Doppler{cfg: cfg, log: log, epoch: uint64(time.Now().UnixNano()), registry: daemon.NewRegistry(), refusals: daemon.NewRefusals("doppler"), heapFloor: make([]byte, heapFloor)}
	if err := d.build(); err != nil {
		return nil, err
	}
	if err := d.bind(); err != nil {
		d.Close()
		return nil, err
	}
	d.registry.MustRegister(d.refusals.Collector(), newCollector(d))
	return d, nil
}

func (d *Doppler) build() error {
	cfg := d.cfg
	d.shakes = daemon.NewHandshakes(d.log)
	d.guard = newGuard(cfg.Allowed, !cfg.TLS.Empty(), d.log)
	if !cfg.TLS.Empty() {
		files := cfg.TLS
		files.Log = d.log
		var err error
		if d.streamTLS, err = mtls.Server(files); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
	}
	var err error
	d.recent, err = recent.New(recent.Config{Bytes: cfg.RecentBytes, Logs: cfg.RecentLogs, Metrics: cfg.RecentMetrics})
	if err != nil {
		return fmt.Errorf("recent: %w", err)
	}
	if err := d.buildRing(); err != nil {
		return err
	}
	d.egress = egress.New(d.ring, d.recent, egress.Config{
		Doppler: cfg.Name, Epoch: d.epoch, Linger: cfg.Linger, WindowBytes: int(cfg.WindowBytes),
		AckTimeout: cfg.AckTimeout, StuckTimeout: cfg.StuckTimeout, SlowCall: cfg.SlowCall, Heartbeat: cfg.Heartbeat,
		MaxWatches: cfg.MaxWatches, MaxSubscriptions: cfg.MaxSubscriptions, SocketBuffer: int(cfg.SocketBufferBytes),
		RecentAge: cfg.RecentAge, RecentLogs: cfg.RecentLogs, HeldBytes: cfg.RingBytes + cfg.RecentBytes,
	}, d.log, d.counters)
	var grpcTLS *tls.Config
	if d.streamTLS != nil {
		grpcTLS = d.streamTLS.Clone()
	}
	in := ingress.Config{
		MaxMessage: int(cfg.MaxMessageBytes), Bytes: cfg.IngressBytes, Window: int(cfg.IngressWindow),
		Limits:    envelope.Limits{MaxEnvelope: int(cfg.MaxEnvelopeBytes), MaxSourceID: cfg.MaxSourceIDBytes},
		DrainWait: min(time.Second, cfg.DrainGrace+100*time.Millisecond), TLS: grpcTLS, Log: d.log, Allow: d.guard.call, HandshakeFailed: d.shakes.Tell,
	}
	if d.limiter = cfg.limiter(); d.limiter != nil {
		in.Limiter = d.limiter
	}
	d.ingress, err = ingress.New(in, d.ring)
	if err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	d.egress.Register(d.ingress.GRPC())
	return nil
}

// buildRing makes the ring, which hands what it lets go of to the recent
// store, a segment at a time.
func (d *Doppler) buildRing() (err error) {
	newest := &ring.Counts{}
	for class := range newest {
		newest[class] = uint64(d.cfg.RecentMetrics)
	}
	newest[envelope.Log], newest[envelope.ErrorLog] = uint64(d.cfg.RecentLogs), uint64(d.cfg.RecentLogs)
	d.ring, err = ring.New(ring.Config{
		Bytes: d.cfg.RingBytes,
		BeforeEvict: func(c ring.Chunk) {
			d.egress.BeforeEvict(c)
			d.recent.Begin()
		},
		OfferNewest: newest,
		OnEvict: func(e ring.Evicted) {
			d.recent.Offer(e.Source, e.Class, e.Ordinal, e.Newer, e.Offset, e.Env)
		},
		AfterOffer: d.recent.End,
	})
	if err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	return nil
}

func (d *Doppler) bind() (err error) {
	if d.grpc, err = daemon.Listen(d.cfg.GRPCAddr, 0); err != nil {
		return fmt.Errorf("grpc-addr: %w", err)
	}
	if d.stream, err = daemon.Listen(d.cfg.StreamAddr, 0); err != nil {
		return fmt.Errorf("stream-addr: %w", err)
	}
	if d.admin, err = daemon.Listen(d.cfg.AdminAddr, 0); err != nil {
		return fmt.Errorf("admin-addr: %w", err)
	}
	return nil
}

// Close gives up a Doppler that is not going to Run.
func (d *Doppler) Close() {
	for _, l := range []net.Listener{d.grpc, d.stream, d.admin} {
		if l != nil {
			_ = l.Close()
		}
	}
	d.ring.Close()
	d.recent.Close()
}

// GRPCAddr is where producers connect to.
func (d *Doppler) GRPCAddr() string { return d.grpc.Addr().String() }

// StreamAddr is where Traffic Controllers connect to.
func (d *Doppler) StreamAddr() string { return d.stream.Addr().String() }

// AdminAddr serves metrics, health and views.
func (d *Doppler) AdminAddr() string { return d.admin.Addr().String() }

// Name is the Doppler's name.
func (d *Doppler) Name() string { return d.cfg.Name }

// Run serves until ctx ends. Then it refuses producers, serves its readers to
// the end of the ring or for --drain-grace, tells them fin, and returns.
func (d *Doppler) Run(ctx context.Context) error {
	defer d.recent.Close()
	defer d.ring.Close()
	d.log.Info("listening", "grpc", d.GRPCAddr(), "stream", d.StreamAddr(), "admin", d.AdminAddr(),
		"name", d.cfg.Name, "epoch", d.epoch, "tls", d.streamTLS != nil, "ring_bytes", d.cfg.RingBytes)
	stop := context.AfterFunc(ctx, func() { d.draining.Store(true) })
	defer stop()
	streams := daemon.NewHTTPServer(d.streamHandler(), d.log)
	d.shakes.Watch(streams)
	listener := d.stream
	if d.streamTLS != nil {
		streams.TLSConfig = d.streamTLS
		// WebSocket needs HTTP/1.1: it is all that is offered.
		cfg := d.streamTLS.Clone()
		cfg.NextProtos = []string{"http/1.1"}
		listener = stream.NewTLSListener(d.stream, cfg)
	}
	admin := daemon.Admin{
		Metrics: d.registry, Ready: d.Ready,
		Subscriptions: http.HandlerFunc(d.egress.ServeSubscriptions), Sources: http.HandlerFunc(d.egress.ServeSources),
	}
	g := &daemon.Group{}
	g.Add("admin", daemon.ServeHTTP(daemon.NewHTTPServer(admin.Handler(), d.log), d.admin, time.Second))
	g.Add("stream", daemon.ServeHTTP(streams, listener, time.Second))
	g.Add("grpc", d.stopGRPC)
	g.Add("egress", d.runEgress)
	g.Add("metrics", d.emitMetrics)
	g.Add("limits", d.announceLimits)
	g.Add("ingress", func(ctx context.Context) error { return d.ingress.Run(ctx, d.grpc) })
	err := g.Run(ctx)
	d.log.Info("stopped", "envelopes", d.ring.Head())
	return err
}

// stopGRPC ends what the gRPC listener has taken in: the calls of readers too,
// which therefore have ended before.
func (d *Doppler) stopGRPC(ctx context.Context) error {
	<-ctx.Done()
	d.ingress.Stop()
	return nil
}

// runEgress serves readers and, when ctx ends, drains them.
func (d *Doppler) runEgress(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- d.egress.Run(inner) }()
	<-ctx.Done()
	grace, end := context.WithTimeout(inner, d.cfg.DrainGrace)
	d.egress.Drain(grace)
	end()
	cancel()
	return <-done
}

// streamHandler serves the paths of readers, and health for load balancers.
func (d *Doppler) streamHandler() http.Handler {
	mux := http.NewServeMux()
	readers := d.egress.Handler()
	paths := []string{stream.PathFirehose, stream.PathTails, stream.PathHistory, strings.TrimSuffix(stream.PathHistory, "/"), stream.PathSources, stream.PathSubscriptions}
	for _, path := range paths {
		mux.Handle(path, d.guard.path(path, readers))
	}
	mux.HandleFunc("GET /health", daemon.Health)
	mux.Handle("GET /ready", daemon.ReadyHandler(d.Ready))
	there := strings.Join(append(paths, "/health", "/ready"), " ")
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, fmt.Sprintf("nothing at %s; there is %s", r.URL.Path, there), http.StatusNotFound)
	})
	return d.refusals.Wrap(mux)
}

// Ready returns nil unless the Doppler is draining.
func (d *Doppler) Ready() error {
	if d.draining.Load() {
		return fmt.Errorf("draining")
	}
	return nil
}

// counters are the totals in heartbeats.
func (d *Doppler) counters() (accepted, dropped uint64) {
	return d.ring.Head(), d.ingress.Stats().Dropped.Total()
}
