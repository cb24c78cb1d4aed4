package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Listen binds a TCP address. The kernel's send and receive buffer of every
// accepted connection are set to buffer bytes each, so that nothing hides
// there; 0 leaves them to the kernel. The error says which address.
func Listen(addr string, buffer int) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	if buffer == 0 {
		return l, nil
	}
	return &buffered{l, buffer}, nil
}

// buffered hands out the bare *net.TCPConn, so writev and splice stay possible.
type buffered struct {
	net.Listener
	bytes int
}

func (b *buffered) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		// A connection that died in between fails on its first read instead.
		_ = tcp.SetReadBuffer(b.bytes)
		_ = tcp.SetWriteBuffer(b.bytes)
	}
	return conn, nil
}

// Limits of NewHTTPServer.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 1 << 20 // as the old services had: long queries are part of it
)

// NewHTTPServer returns a server with limits on what a client may hold up:
// headers within 10 s and 1 MiB, idle connections closed after 2 min. What a
// handler takes to answer is its own affair. Faults of connections are logged
// at debug level: anybody can cause them.
func NewHTTPServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP returns an actor that serves l until its context ends, then takes
// no more, gives requests in progress grace to end, and closes them. Hijacked
// connections are not its own: whoever took them ends them. It closes l.
func ServeHTTP(server *http.Server, l net.Listener, grace time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		select {
		case err := <-served:
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		case <-ctx.Done():
		}
		graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err := server.Shutdown(graceful)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		<-served
		if err != nil {
			return fmt.Errorf("close %s: %w", l.Addr(), err)
		}
		return nil
	}
}
