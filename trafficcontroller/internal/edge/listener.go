package edge

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// headerTimeout is how long a PROXY header may take.
const headerTimeout = 10 * time.Second

// Listener wraps l; TLS goes around it. The server has to have ConnState,
// ConnContext and Identify. Who takes over a plain connection gets the bare
// *net.TCPConn, so writev stays possible.
func (e *Edge) Listener(l net.Listener) net.Listener {
	if !e.cfg.ProxyProtocol {
		return &listener{l, e}
	}
	p := &proxyListener{Listener: l, edge: e, accepted: make(chan accepted), done: make(chan struct{}), waiting: map[net.Conn]bool{}}
	p.wg.Go(p.run)
	return p
}

// listener counts what is accepted as pending.
type listener struct {
	net.Listener
	edge *Edge
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.edge.count(l.edge.begin(nc)), nil
}

// begin makes a connection pending, and closes the oldest that is over the
// limit: who means well has said what it wants within a round trip.
func (e *Edge) begin(nc net.Conn) *conn {
	e.mu.Lock()
	c := &conn{nc: nc}
	e.conns[nc] = c
	over := e.wait(c)
	e.mu.Unlock()
	e.evict(over)
	return c
}

// wait puts c at the end of those that are pending, and takes out the first if
// they are too many. The caller holds mu.
func (e *Edge) wait(c *conn) (over *conn) {
	if c.place == nil {
		c.place = e.pending.PushBack(c)
		c.waits.Store(true)
	}
	if e.pending.Len() <= e.cfg.MaxPending {
		return nil
	}
	over = e.pending.Front().Value.(*conn)
	e.leave(over)
	return over
}

// leave takes c out of the pending ones. The caller holds mu.
func (e *Edge) leave(c *conn) {
	if c.place == nil {
		return
	}
	e.pending.Remove(c.place)
	e.bytes -= c.bytes
	c.place, c.bytes = nil, 0
	c.waits.Store(false)
}

// sent counts what a pending connection has sent. Over the limit the one that
// sent most is closed: a header of many small parts takes far more room in memory
// than on the wire, and one of a client that means well is small and soon
// complete.
func (e *Edge) sent(c *conn, n int) {
	e.mu.Lock()
	var most *conn
	if c.place != nil {
		c.bytes += int64(n)
		if e.bytes += int64(n); e.bytes > e.cfg.MaxPendingBytes {
			most = c
			for at := e.pending.Front(); at != nil; at = at.Next() {
				if other := at.Value.(*conn); other.bytes > most.bytes {
					most = other
				}
			}
			e.leave(most)
		}
	}
	e.mu.Unlock()
	e.evict(most)
}

// counted is a connection whose bytes are counted while it is pending.
type counted struct {
	*net.TCPConn
	edge *Edge
	conn *conn
}

// count returns what the server gets of c.
func (e *Edge) count(c *conn) net.Conn {
	if tcp, ok := c.nc.(*net.TCPConn); ok {
		return &counted{tcp, e, c}
	}
	return c.nc
}

// Read counts.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 && c.conn.waits.Load() {
		c.edge.sent(c.conn, n)
	}
	return n, err
}

// NetConn is what lies below.
func (c *counted) NetConn() net.Conn { return c.TCPConn }

// Socket is the same: what is read and written here is not changed.
func (c *counted) Socket() *net.TCPConn { return c.TCPConn }

func (e *Edge) evict(c *conn) {
	if c == nil {
		return
	}
	e.refuse(Pending)
	_ = c.nc.Close() // who serves it is told by its next read
}

// active takes c out of the pending ones.
func (e *Edge) active(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leave(c)
}

// end forgets a connection.
func (e *Edge) end(nc net.Conn) {
	e.mu.Lock()
	c := e.conns[nc]
	delete(e.conns, nc)
	e.mu.Unlock()
	if c != nil {
		e.active(c)
	}
}

// below is the connection under TLS.
func below(nc net.Conn) net.Conn {
	for {
		t, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = t.NetConn()
	}
}

// ConnState is the server's: a connection between two requests is pending
// again, one that is over or somebody else's is forgotten.
func (e *Edge) ConnState(nc net.Conn, state http.ConnState) {
	switch state {
	case http.StateClosed, http.StateHijacked:
		e.end(below(nc))
	case http.StateIdle:
		e.mu.Lock()
		var over *conn
		if c := e.conns[below(nc)]; c != nil {
			over = e.wait(c)
		}
		e.mu.Unlock()
		e.evict(over)
	default:
	}
}

type connKey struct{}

// ConnContext is the server's: it leaves the connection to the handler.
func (e *Edge) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.conns[below(nc)]; c != nil {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

type accepted struct {
	nc  net.Conn
	err error
}

// proxyListener reads PROXY headers, of many connections at once: they are
// pending meanwhile.
type proxyListener struct {
	net.Listener
	edge     *Edge
	accepted chan accepted
	done     chan struct{}
	wg       sync.WaitGroup
	close    sync.Once

	mu      sync.Mutex
	waiting map[net.Conn]bool // nil after Close
}

func (p *proxyListener) run() {
	for {
		nc, err := p.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.hand(accepted{err: err}) // the server waits before it takes more
			continue
		}
		if !p.edge.trusted.has(addrPort(nc.RemoteAddr()).Addr()) {
			p.edge.refuse(NotProxy)
			_ = nc.Close()
			continue
		}
		c := p.edge.begin(nc)
		if !p.keep(nc, true) {
			p.edge.end(nc)
			_ = nc.Close()
			continue
		}
		p.wg.Go(func() { p.greet(c) })
	}
}

// hand gives the server what it waits for; false after Close.
func (p *proxyListener) hand(a accepted) bool {
	select {
	case p.accepted <- a:
		return true
	case <-p.done:
		return false
	}
}

// keep notes whether a connection has still to be closed by Close; false when
// that was called.
func (p *proxyListener) keep(nc net.Conn, on bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		return false
	}
	if on {
		p.waiting[nc] = true
	} else {
		delete(p.waiting, nc)
	}
	return true
}

// greet reads the header of one connection and hands it on.
func (p *proxyListener) greet(c *conn) {
	err := c.nc.SetReadDeadline(time.Now().Add(headerTimeout))
	if err == nil {
		c.peer, err = readPROXY(c.nc)
	}
	if err == nil {
		err = c.nc.SetReadDeadline(time.Time{})
	}
	p.keep(c.nc, false)
	if err == nil && p.hand(accepted{nc: p.edge.count(c)}) {
		return
	}
	if err != nil {
		p.edge.refuse(ProxyHeader)
	}
	p.edge.end(c.nc)
	_ = c.nc.Close()
}

// Accept returns the next connection whose header was read.
func (p *proxyListener) Accept() (net.Conn, error) {
	select {
	case a := <-p.accepted:
		return a.nc, a.err
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close also closes the connections whose headers are awaited, and waits for
// the goroutines.
func (p *proxyListener) Close() (err error) {
	p.close.Do(func() {
		close(p.done)
		err = p.Listener.Close()
		p.mu.Lock()
		waiting := p.waiting
		p.waiting = nil
		p.mu.Unlock()
		for nc := range waiting {
			_ = nc.Close()
		}
		p.wg.Wait()
	})
	return err
}

// addrPort is a TCP address, IPv4 as such; zero for any other.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
