package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/firehose-nozzle/cmd/firehose-nozzle/internal/encode"
	"github.com/a1ea6966/loggregator/firehose-nozzle/cmd/firehose-nozzle/internal/pump"
	"github.com/a1ea6966/loggregator/firehose-nozzle/cmd/firehose-nozzle/internal/sink"
	"github.com/a1ea6966/loggregator/internal/daemon"
)

// adminGrace is how long a request to the admin listener may hold up the end.
const adminGrace = time.Second

// run is the service: it blocks until ctx ends or the stream is over.
func run(ctx context.Context, cfg *config, log *slog.Logger) (err error) {
	admin, err := daemon.Listen(cfg.adminAddr, 0)
	if err != nil {
		return err
	}
	defer admin.Close()
	log.Info("listening", "admin", admin.Addr().String())
	out, closeSink, err := openSink(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSink()) }()
	cursors, stream, err := openStream(ctx, cfg, log)
	if err != nil {
		return err
	}
	registry := daemon.NewRegistry()
	p := pump.New(pump.Config{
		Stream: stream, Sink: out, Cursors: cursors, Grace: cfg.drainGrace, DeadAfter: cfg.deadAfter,
		Registry: registry, Log: log,
	})
	var group daemon.Group
	// The admin listener is the last to go: it tells how the rest ends.
	server := daemon.NewHTTPServer(adminHandler(daemon.Admin{Metrics: registry, Ready: p.Health}, p), log)
	group.Add("admin", daemon.ServeHTTP(server, admin, adminGrace))
	group.Add("nozzle", p.Run)
	return group.Run(ctx)
}

// adminHandler is the usual one, but /healthz and /health ask the pump.
func adminHandler(admin daemon.Admin, p *pump.Pump) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", admin.Handler())
	health := func(w http.ResponseWriter, r *http.Request) {
		if err := p.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		daemon.Health(w, r)
	}
	mux.HandleFunc("GET /healthz", health)
	mux.HandleFunc("GET /health", health)
	return mux
}

// openStream opens the subscription, at the stored cursor if there is one. The
// stream outlives ctx: it is the pump that closes it, when all is acked.
func openStream(ctx context.Context, cfg *config, log *slog.Logger) (*pump.CursorFile, *nozzle.Stream, error) {
	conf := nozzle.Config{
		Addr: cfg.addr, Subscription: cfg.subscription,
		Types: cfg.types, SourceIDs: cfg.sourceIDs, Names: cfg.names,
		Header: cfg.header, Notify: notify(log), MaxRetries: cfg.maxRetries, MaxElapsed: cfg.maxOutage,
	}
	var err error
	if conf.TLS, err = cfg.tls(); err != nil {
		return nil, nil, err
	}
	if cfg.tlsSkip {
		log.Warn("INSECURE: --tls-skip-verify is on, whoever answers is trusted with everything", "addr", cfg.addr)
	}
	var cursors *pump.CursorFile
	if cfg.cursorFile != "" {
		if cursors, conf.Cursor, err = pump.OpenCursorFile(cfg.cursorFile, cfg.selection()); err != nil {
			return nil, nil, err
		}
	}
	stream, err := nozzle.Open(context.WithoutCancel(ctx), conf)
	return cursors, stream, err
}

// notify logs what happens to the connection; of one that flaps, a line of each
// kind a minute.
func notify(log *slog.Logger) func(nozzle.Notice) {
	up, down, refused, left := daemon.Quiet(log), daemon.Quiet(log), daemon.Quiet(log), daemon.NewQuietEach(log, "doppler")
	return func(n nozzle.Notice) {
		switch n.Kind {
		case nozzle.Connected:
			up.Info("connected", "server", n.Server)
		case nozzle.Disconnected:
			down.Warn("not connected", "error", n.Err, "attempt", n.Attempt, "again_in", n.Wait.String())
		case nozzle.TokenRefused:
			refused.Warn("the token could not be renewed", "error", n.Err)
		case nozzle.DopplerLeft:
			left.Of(n.Doppler).Info("Doppler left, everything it had was received")
		}
	}
}

// openSink opens the sink that the configuration names. closeSink is to be
// called when nothing is written any more.
func openSink(cfg *config, log *slog.Logger) (out pump.Sink, closeSink func() error, err error) {
	encoder, err := encode.New(cfg.format)
	if err != nil {
		return nil, nil, err
	}
	lines := func(dst []byte, b *nozzle.Batch) []byte { return encode.AppendBatch(dst, encoder, b) }
	switch cfg.sink {
	case "stdout":
		return sink.NewWriter(os.Stdout, lines), func() error { return nil }, nil
	case "file":
		f, err := sink.OpenFile(sink.FileConfig{
			Path: cfg.file, Append: lines, Sync: cfg.fsync == "always",
			RotateBytes: cfg.rotateBytes, RotateAge: cfg.rotateAge, Keep: cfg.keep, Log: log,
		})
		if err != nil {
			return nil, nil, err
		}
		stop := reopenOnSignal(f, log)
		return f, func() error { stop(); return f.Close() }, nil
	}
	return nil, nil, fmt.Errorf("unknown sink %q", cfg.sink) // Validate has seen it
}

// reopenOnSignal reopens the file with each SIGHUP until stop is called.
func reopenOnSignal(f *sink.File, log *slog.Logger) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hangups:
				if err := f.Reopen(); err != nil {
					log.Error("cannot reopen file, writing on", "error", err)
				} else {
					log.Info("file reopened")
				}
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(quit)
		<-done
	}
}
