package ingress

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
)

// listener bounds the number of connections and can make all of them pause:
// what has been read is still worked on, what is in the kernel stays there.
type listener struct {
	net.Listener
	limit  int64
	open   *atomic.Int64
	paused chan struct{} // closed by the server: reads wait
	resume chan struct{} // closed by the server: reads go on
	log    *slog.Logger
}

// Accept closes what is over the limit at once: before the handshake there is
// no way to say why.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if open := l.open.Add(1); open > l.limit {
			l.open.Add(-1)
			l.log.Warn("ingress connection closed: over the limit", "remote", raw.RemoteAddr().String(), "limit", l.limit)
			_ = raw.Close() // nobody waits for it
			continue
		}
		return &conn{Conn: raw, of: l, closed: make(chan struct{})}, nil
	}
}

type conn struct {
	net.Conn
	of     *listener
	once   sync.Once
	closed chan struct{}
}

func (c *conn) Read(p []byte) (int, error) {
	select {
	case <-c.of.paused:
		select {
		case <-c.of.resume:
		case <-c.closed:
		}
	default:
	}
	return c.Conn.Read(p)
}

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.of.open.Add(-1)
	})
	return c.Conn.Close()
}
