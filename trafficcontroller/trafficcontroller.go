// Package trafficcontroller is what clients talk to: it reads every Doppler,
// fans the logs of a source out to its tails, and serves the Firehose to
// nozzles.
//
// New binds the ports, Run serves until its context ends and then drains.
package trafficcontroller

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/mtls"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/accesslog"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/api"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/edge"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/fanout"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/recent"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/relay"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/upstream"
)

// TrafficController is one node. Its methods may be called concurrently.
type TrafficController struct {
	// static after New
	cfg          Config
	log          *slog.Logger
	readLog      *slog.Logger // of reads that fail, which may be many
	peerLog      *daemon.QuietEach
	registry     *prometheus.Registry
	refusals     *daemon.Refusals
	pings        *stream.KeepAlive
	oldPings     *stream.KeepAlive
	dialer       *upstream.Dialer
	links        *upstream.Links
	set          *upstream.Set
	relay        *relay.Relay
	hub          *fanout.Hub
	pump         *fanout.Pump
	tails        tails
	readers      readers
	api          *api.API
	access       access
	edge         *edge.Edge
	events       chan *loggregatorv2.Envelope // to be emitted
	security     *accesslog.Log               // nil for none
	cacheMetrics *cacheMetrics
	settled      atomic.Bool // ready was reached once

	listener, admin net.Listener
	tls             *tls.Config // towards clients; nil for plaintext
}

// New makes a Traffic Controller and binds its ports. Run or Close has to
// follow. The error names the setting or address at fault.
func New(cfg Config, log *slog.Logger) (*TrafficController, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	t := &TrafficController{
		cfg: cfg, log: log, readLog: daemon.Quiet(log), peerLog: daemon.NewQuietEach(log, "addr"), registry: daemon.NewRegistry(), refusals: daemon.NewRefusals("trafficcontroller"), cacheMetrics: newCacheMetrics(),
		pings: stream.NewKeepAlive(), oldPings: stream.NewOldKeepAlive(), events: make(chan *loggregatorv2.Envelope, 16),
	}
	if err := t.build(); err != nil {
		return nil, err
	}
	var err error
	if t.listener, err = daemon.Listen(cfg.Addr, 0); err != nil {
		return nil, fmt.Errorf("addr: %w", err)
	}
	if t.admin, err = daemon.Listen(cfg.AdminAddr, 0); err != nil {
		_ = t.listener.Close()
		return nil, fmt.Errorf("admin-addr: %w", err)
	}
	if err := t.openSecurityLog(); err != nil {
		t.Close()
		return nil, err
	}
	t.registry.MustRegister(t.refusals.Collector(), newCollector(t), edgeCollector{t.edge}, newAccessCollector(t.access.Auth, t.security), t.cacheMetrics.requests, t.cacheMetrics.missing)
	return t, nil
}

func (t *TrafficController) build() error {
	cfg := t.cfg
	var inside *tls.Config
	var err error
	if !cfg.DopplerTLS.Empty() {
		files := cfg.DopplerTLS
		files.Log = t.log
		if inside, err = mtls.Client(files, mtls.NameDoppler); err != nil {
			return fmt.Errorf("TLS to Dopplers: %w", err)
		}
	}
	if cfg.TLSCert != "" {
		if t.tls, err = mtls.Outside(cfg.TLSCert, cfg.TLSKey); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		// WebSocket needs HTTP/1.1: it is all that is offered.
		t.tls = t.tls.Clone()
		t.tls.NextProtos = []string{"http/1.1"}
	}
	if err := t.buildAccess(); err != nil {
		return err
	}
	if t.edge, err = edge.New(cfg.Edge); err != nil {
		return err
	}
	t.dialer = upstream.NewDialer(inside, int(cfg.SocketBufferBytes))
	t.relay = relay.New(relay.Config{
		Name: cfg.Name, Dial: t.dialer.Stream, IdleTimeout: upstream.IdleTimeout,
		StuckTimeout: cfg.StuckTimeout, Heartbeat: cfg.Heartbeat, LostAfter: lostAfter,
	}, t.peerLog)
	if err := t.buildTails(); err != nil {
		return err
	}
	if err := t.buildSet(); err != nil {
		return err
	}
	reads := recent.New(recent.Config{Allow: t.access.Recent, Ask: t.askHistory, Max: cfg.MaxRecent}, t.log)
	t.api = api.New(api.Config{
		Name: cfg.Name, Version: daemon.Version(), MaxConnections: cfg.MaxConnections, MaxRecent: cfg.MaxRecent,
		SocketBuffer: int(cfg.SocketBufferBytes), Ready: t.ready, Access: t.access,
		From: originOf, Take: t.edge.Take,
		SetCookie: auth.SetCookie(cfg.SystemDomain), Endpoint: cfg.endpoint(), Firehose: t.openFirehose, Tail: t.openTail,
		Subscriptions: t.serveSubscriptions, Sources: t.serveSources,
		Read: t.buildGateway(), RecentLogs: reads.Logs, ContainerMetrics: reads.ContainerMetrics, LogCache: t.buildLogCache(),
	}, t.log)
	return nil
}

func (t *TrafficController) buildAccess() error {
	config := t.cfg.Access
	config.Disabled = t.cfg.DisableAccessControl
	decider, err := auth.New(config, t.log)
	if err != nil {
		return err
	}
	t.access = access{decider}
	return nil
}

// openSecurityLog opens the log of requests (protocol/03, access log). host and
// port are where it says they went.
func (t *TrafficController) openSecurityLog() (err error) {
	if t.cfg.SecurityLog == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(t.Addr())
	if err != nil {
		return fmt.Errorf("addr: %w", err)
	}
	if t.cfg.IP != "" {
		host = t.cfg.IP
	}
	if t.security, err = accesslog.Open(t.cfg.SecurityLog, host, port, t.log); err != nil {
		return fmt.Errorf("security-log: %w", err)
	}
	t.security.Escape = accesslog.Escape(t.cfg.SecurityLogEscape)
	t.security.From = func(r *http.Request) (host, port string) {
		c := edge.From(r)
		if c.Addr.Is6() && c.Port == 0 {
			return "", "" // as ever for what a proxy names without a port (protocol/03)
		}
		return c.Host(), c.PortText()
	}
	return nil
}

func (t *TrafficController) buildTails() (err error) {
	cfg := t.cfg
	t.hub, t.pump, err = fanout.NewPump(fanout.Config{
		Name: cfg.Name, TailBytes: cfg.TailQueueBytes, AllBytes: cfg.TailsQueueBytes,
		GatherWithin: cfg.GatherTimeout, LostAfter: lostAfter, Heartbeat: cfg.Heartbeat,
		Slow: cfg.Slow[classTail], SlowOld: cfg.Slow[classTailOld],
	}, fanout.PumpConfig{
		StuckTimeout: cfg.StuckTimeout, OldTimeout: cfg.SlowTimeout, Copies: t.tls != nil, Fetch: t.dialer.History, Fetches: 16,
	}, t.readLog)
	if err != nil {
		return fmt.Errorf("tails: %w", err)
	}
	return nil
}

// lostAfter is how long a Doppler that left the set may take to come back at
// another address before its tails are told.
const lostAfter = 30 * time.Second

func (t *TrafficController) buildSet() error {
	t.links = &upstream.Links{Dialer: t.dialer, Tails: t.hub, Name: t.cfg.Name, Log: t.peerLog, Session: stream.NewSession()}
	t.set = &upstream.Set{
		Interval: t.cfg.ResolveInterval, Resolver: net.DefaultResolver, Log: t.log, PeerLog: t.peerLog,
		Peer: t.links.Follow,
		Added: func(addr string) {
			t.links.Expect()
			t.relay.Added(addr)
		},
		Removed: func(addr string) {
			t.relay.Removed(addr)
			t.hub.Removed(addr)
		},
	}
	for _, spec := range t.cfg.Dopplers {
		target, err := upstream.ParseTarget(spec)
		if err != nil {
			return fmt.Errorf("doppler: %w", err)
		}
		t.set.Targets = append(t.set.Targets, target)
	}
	return nil
}

// Close gives up a Traffic Controller that is not going to Run.
func (t *TrafficController) Close() {
	_ = t.listener.Close()
	_ = t.admin.Close()
	t.dialer.Close()
	t.closeAccess()
}

func (t *TrafficController) closeAccess() {
	t.access.Close()
	if t.security != nil {
		if err := t.security.Close(); err != nil {
			t.log.Error("security log", "error", err)
		}
	}
}

// Addr is where clients connect to.
func (t *TrafficController) Addr() string { return t.listener.Addr().String() }

// AdminAddr serves metrics, health and views.
func (t *TrafficController) AdminAddr() string { return t.admin.Addr().String() }

// Run serves until ctx ends. Then it refuses new clients, closes the streams
// one after another with "going away" over --drain-grace, and returns.
func (t *TrafficController) Run(ctx context.Context) error {
	t.log.Info("listening", "addr", t.Addr(), "admin", t.AdminAddr(), "name", t.cfg.Name, "tls", t.tls != nil)
	if t.cfg.DisableAccessControl {
		t.log.Warn("ACCESS CONTROL IS OFF: everybody who reaches this address can read every log", "addr", t.Addr())
	}
	stop := context.AfterFunc(ctx, t.api.Drain)
	defer stop()
	server, listener := t.server()
	admin := daemon.Admin{
		Metrics: t.registry, Ready: t.ready,
		Subscriptions: http.HandlerFunc(t.serveSubscriptions), Sources: http.HandlerFunc(t.serveSources),
	}
	g := &daemon.Group{}
	g.Add("admin", daemon.ServeHTTP(daemon.NewHTTPServer(admin.Handler(), t.log), t.admin, time.Second))
	g.Add("dopplers", t.set.Run)
	g.Add("pump", t.pump.Run)
	g.Add("relay", t.relay.Run)
	g.Add("pings", func(ctx context.Context) error { t.pings.Run(ctx); return nil })
	g.Add("old-pings", func(ctx context.Context) error { t.oldPings.Run(ctx); return nil })
	g.Add("self-metrics", t.emitMetrics)
	g.Add("http", daemon.ServeHTTP(server, listener, time.Second))
	// The first to stop: until the last stream is closed, whoever comes is told
	// to go elsewhere, and what comes for the others is served.
	g.Add("streams", t.closeStreams)
	g.Add("hangups", t.reopen)
	err := g.Run(ctx)
	t.dialer.Close()
	t.closeAccess()
	t.log.Info("stopped")
	return err
}

// server is what clients talk to, and where.
func (t *TrafficController) server() (*http.Server, net.Listener) {
	server := daemon.NewHTTPServer(t.handler(), t.log)
	server.MaxHeaderBytes = t.edge.HeadRoom()
	server.ConnState, server.ConnContext = t.edge.ConnState, t.edge.ConnContext
	listener := t.edge.Listener(t.listener)
	if t.tls != nil {
		listener = stream.NewTLSListener(listener, t.tls)
	}
	return server, listener
}

func (t *TrafficController) handler() http.Handler {
	h := t.refusals.Wrap(t.edge.Receive(t.edge.Check(t.api)))
	if t.security != nil {
		h = t.security.Wrap(h)
	}
	return t.edge.Identify(h)
}

// originOf says it in the words of api.
func originOf(r *http.Request) api.Origin {
	c := edge.From(r)
	remote := c.String()
	if remote == "" {
		remote = r.RemoteAddr
	}
	return api.Origin{Remote: remote, Scheme: c.Scheme, Forwarded: c.Forwarded}
}

// reopen opens the security log anew at every SIGHUP, as logrotate expects,
// until ctx ends.
func (t *TrafficController) reopen(ctx context.Context) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
		}
		if t.security == nil {
			continue
		}
		if err := t.security.Reopen(); err != nil {
			t.log.Error("security log", "error", err)
		}
	}
}

// closeStreams waits for the end and then closes what clients have open.
func (t *TrafficController) closeStreams(ctx context.Context) error {
	<-ctx.Done()
	const reason = "this Traffic Controller is stopping"
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.relay.Close(stream.CloseGoingAway, reason, t.cfg.DrainGrace)
	}()
	t.tails.closeAll(stream.CloseGoingAway, reason, t.cfg.DrainGrace)
	<-done
	return nil
}

// ready returns nil when the Dopplers are known, each of them was tried once,
// and one of them at least is connected.
func (t *TrafficController) ready() error {
	switch {
	case !t.settled.Load() && !t.set.Found():
		return upstream.ErrNotFound
	case !t.settled.Load() && !t.links.Tried():
		return errors.New("the Dopplers are being connected")
	}
	t.settled.Store(true)
	if t.links.Up() == 0 {
		return errors.New("no Doppler is connected")
	}
	return nil
}
