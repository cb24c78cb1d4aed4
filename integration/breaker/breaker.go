// Package breaker is a TCP proxy for tests: it breaks connections in the middle
// of what they carry, and spreads those that come back over several servers.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// How a connection is broken.
type How int

const (
	// Reset sends a RST to both sides: what is on its way is gone.
	Reset How = iota
	// Finish sends a FIN to both sides, behind what was passed on so far.
	Finish
)

// String is the name of what travels.
func (h How) String() string {
	if h == Finish {
		return "FIN"
	}
	return "RST"
}

// Proxy accepts connections and passes their bytes on. Its methods may be
// called concurrently.
type Proxy struct {
	listener net.Listener
	targets  []string
	buffer   int
	running  sync.WaitGroup

	mu     sync.Mutex
	next   int // target
	conns  []*conn
	closed bool
}

const (
	dialTimeout = 2 * time.Second
	// lingers is how long a side may take to answer a FIN.
	lingers = 5 * time.Second
	// silence is how long to wait for bytes of a server.
	silence = 200 * time.Millisecond
	chunk   = 16 << 10
)

// Listen starts a proxy on a loopback port. Connections go to the targets in
// turn, but for those that refuse. The kernel's buffers of each of its sockets
// have so many bytes. Close has to follow.
func Listen(ctx context.Context, buffer int, targets ...string) (*Proxy, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	p := &Proxy{listener: listener, targets: targets, buffer: buffer}
	p.running.Go(p.accept)
	return p, nil
}

// Addr is where to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close breaks everything and waits until nothing of the proxy runs any more.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.mu.Unlock()
	for _, c := range conns {
		c.close(true)
	}
	p.running.Wait()
}

// Break breaks one connection, chosen at random, after so many bytes more that
// its server sends, or as it is when that sends too few, and waits until that is
// done. It reports false when there is no connection.
func (p *Proxy) Break(ctx context.Context, rng *rand.Rand, how How, after int) (bool, error) {
	whole := p.whole()
	if len(whole) == 0 {
		return false, nil
	}
	c := whole[rng.IntN(len(whole))]
	c.arm(how, after)
	idle := time.AfterFunc(silence, c.end)
	defer idle.Stop()
	select {
	case <-c.broken:
		return true, nil
	case <-ctx.Done():
		return false, fmt.Errorf("break a connection: %w", context.Cause(ctx))
	}
}

// whole are the connections that are not broken.
func (p *Proxy) whole() (conns []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		select {
		case <-c.broken:
		default:
			conns = append(conns, c)
		}
	}
	return conns
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.running.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

func (p *Proxy) serve(client *net.TCPConn) {
	server, err := p.dial()
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	c := &conn{client: client, server: server, broken: make(chan struct{})}
	for _, side := range []*net.TCPConn{client, server} {
		_ = side.SetReadBuffer(p.buffer) // a limit, for who counts what is lost
		_ = side.SetWriteBuffer(p.buffer)
	}
	if !p.add(c) {
		c.close(true)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.pass(server, client, c.upTo) })
	both.Go(func() { c.pass(client, server, func(n int) (int, bool) { return n, false }) })
	both.Wait()
	c.close(false)
	p.remove(c)
}

// dial tries every target once.
func (p *Proxy) dial() (*net.TCPConn, error) {
	p.mu.Lock()
	first := p.next
	p.next++
	p.mu.Unlock()
	var errs []error
	for i := range p.targets {
		target := p.targets[(first+i)%len(p.targets)]
		server, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(context.Background(), "tcp", target)
		if err == nil {
			return server.(*net.TCPConn), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (p *Proxy) add(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.conns = append(p.conns, c)
	}
	return !p.closed
}

func (p *Proxy) remove(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.conns {
		if o == c {
			p.conns = append(p.conns[:i:i], p.conns[i+1:]...)
			return
		}
	}
}

// conn is one connection and its other half.
type conn struct {
	client, server *net.TCPConn
	broken         chan struct{} // closed when it is
	once           sync.Once

	mu    sync.Mutex
	armed bool
	how   How
	after int
}

// arm has the connection broken behind so many bytes of its server.
func (c *conn) arm(how How, after int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.how, c.after = true, how, after
}

// upTo tells how many of n bytes to pass on, and whether that is the end.
func (c *conn) upTo(n int) (int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return n, false
	}
	if n < c.after {
		c.after -= n
		return n, false
	}
	return c.after, true
}

// pass copies until one side ends or the connection is broken.
func (c *conn) pass(from, to *net.TCPConn, upTo func(n int) (int, bool)) {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		pass, end := upTo(n)
		if _, failed := to.Write(buf[:pass]); failed != nil && err == nil {
			err = failed
		}
		if end {
			c.end()
			return
		}
		if err != nil {
			_ = to.CloseWrite() // the other side may have more to say
			return
		}
	}
}

// end breaks the connection as it was told to.
func (c *conn) end() {
	c.mu.Lock()
	how := c.how
	c.mu.Unlock()
	if how == Reset {
		c.close(true)
		return
	}
	for _, side := range []*net.TCPConn{c.client, c.server} {
		_ = side.CloseWrite()
		_ = side.SetReadDeadline(time.Now().Add(lingers))
	}
	// What nobody is to have has to be read, or the kernel answers with a RST.
	_, _ = io.Copy(io.Discard, c.server)
	c.close(false)
}

// close ends both halves, if they have not ended, abruptly or not.
func (c *conn) close(abruptly bool) {
	c.once.Do(func() {
		for _, side := range []*net.TCPConn{c.client, c.server} {
			if abruptly {
				_ = side.SetLinger(0)
			}
			_ = side.Close()
		}
		close(c.broken)
	})
}
