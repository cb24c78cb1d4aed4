package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is one WebSocket, either side. Read is for one goroutine at a time;
// everything else may run concurrently with itself and with Read. Pings are
// answered while Read runs, so somebody always has to read.
//
// A Conn starts no goroutine. It has to be closed, with Close or CloseNow,
// also after an error.
type Conn struct {
	// static
	nc          net.Conn        // as the handshake left it: TLS, if any
	tls         *tls.Conn       // nc, when what it writes comes to records
	records     *records        // below tls
	wire        net.Conn        // where frames are written: nc, or the socket below records
	tcp         *net.TCPConn    // below nc, for socket options; nil when there is none
	raw         syscall.RawConn // when wire is tcp: writes, and without TLS reads, that do not block
	client      bool
	subprotocol string
	buffer      int // socket buffer, bytes

	// reading; held by Read, and by Close when it waits for the peer's answer
	rmu   sync.Mutex
	in    frameReader
	watch readWatch

	// writing; whoever holds the lock may write to nc
	lock  chan struct{} // of capacity 1
	fault error         // what broke writing; held by lock
	stall *time.Timer   // made when the socket first blocks; held by lock

	late pending // control frames to be written by the next to hold the lock

	blocked atomic.Int64 // unix ns since when a write waits for the socket; 0 when none does
	freed   atomic.Int64 // unix ns when a write last ended that had waited for long
	stalled atomic.Bool  // a write waited for its whole timeout
	said    atomic.Pointer[CloseError]

	pulse pulse // belongs to a KeepAlive

	// the end
	closing  atomic.Bool  // Close or CloseNow was called, or the peer closed
	closeBy  atomic.Int64 // unix ns when a closing connection stops to write
	done     chan struct{}
	doneOnce sync.Once
}

func newConn(nc net.Conn, client bool, limit int64) *Conn {
	c := &Conn{nc: nc, wire: nc, client: client, lock: make(chan struct{}, 1), done: make(chan struct{})}
	c.in = frameReader{src: nc, masked: !client, limit: uint64(limit)}
	c.watch.conn = c
	return c
}

// tune finds the TCP connection below nc, what is written to it, and sets its
// buffers.
func (c *Conn) tune(buffer int) {
	below := c.nc
	t, secured := c.nc.(*tls.Conn)
	if secured {
		below = t.NetConn()
		if r, ok := below.(*records); ok {
			below = r.Conn
			c.tls, c.records, c.wire = t, r, below
			r.takeOver(func() { c.late.any.Store(true); c.late.again(0, c.flush) })
		}
	}
	if c.tcp = tcpBelow(below); c.tcp == nil {
		return
	}
	c.buffer = buffer
	setSocketOptions(c.tcp, buffer)
	if transparent(c.wire) {
		c.wire, c.raw = c.tcp, rawSocket(c.tcp)
	}
	if c.raw != nil && !secured {
		c.in.lender = newSocketLender(c.raw)
	}
}

// socket is a connection that passes the bytes of a TCP connection on as they are.
type socket interface{ Socket() *net.TCPConn }

// transparent tells whether the TCP connection below nc may be used in its place.
func transparent(nc net.Conn) bool {
	switch nc.(type) {
	case *net.TCPConn, socket:
		return true
	}
	return false
}

func tcpBelow(nc net.Conn) *net.TCPConn {
	for {
		switch u := nc.(type) {
		case *net.TCPConn:
			return u
		case socket:
			return u.Socket()
		case interface{ NetConn() net.Conn }:
			nc = u.NetConn()
		default:
			return nil
		}
	}
}

// setSocketOptions bounds what the kernel holds for a connection. A socket
// that refuses keeps its defaults, which cost memory, not correctness.
func setSocketOptions(tcp *net.TCPConn, buffer int) {
	_ = tcp.SetNoDelay(true)
	_ = tcp.SetReadBuffer(buffer)
	_ = tcp.SetWriteBuffer(buffer)
}

// Subprotocol is what the handshake has settled on, or empty.
func (c *Conn) Subprotocol() string { return c.subprotocol }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Done is closed when the connection is over.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Read returns the next binary message; the caller releases it. It blocks
// until one has come. Meanwhile it answers pings, and a close of the peer.
//
// Errors: *CloseError when the peer closed; *ProtocolError when it broke the
// contract (the connection is closed with its code); net.ErrClosed after
// Close or CloseNow; ctx.Err(), after which Read may be called again and goes
// on where it was; anything else when the connection broke. Except after the
// end of ctx, the connection is over.
func (c *Conn) Read(ctx context.Context) (*Buffer, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if err := c.watch.begin(ctx); err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	b, err := c.read()
	interrupted := c.watch.end()
	if err == nil {
		return b, nil
	}
	if interrupted && isTimeout(err) && !c.closing.Load() {
		return nil, fmt.Errorf("read message: %w", ctx.Err())
	}
	return nil, c.readFailed(err)
}

// read goes on until a message is complete.
func (c *Conn) read() (*Buffer, error) {
	for {
		what, err := c.in.next()
		if err != nil {
			return nil, err
		}
		switch what {
		case gotMessage:
			return c.in.message(), nil
		case gotPing:
			c.post(opPong, c.in.control)
		case gotPong:
			c.late.answer(c.in.control)
		case gotClose:
			closed, err := parseClosePayload(c.in.control)
			if err != nil {
				return nil, err
			}
			return nil, closed
		}
	}
}

// readFailed ends the connection after a failed read, and puts the failure in
// words.
func (c *Conn) readFailed(err error) error {
	c.in.drop()
	var closed *CloseError
	var broke *ProtocolError
	switch {
	case !c.closing.CompareAndSwap(false, true):
		// Closed by this side: whoever does it waits for rmu, or does not care.
		return fmt.Errorf("read message: %w", net.ErrClosed)
	case errors.As(err, &closed):
		if c.sayClose(closed.Code, "") == nil {
			c.endTLS()
		}
	case errors.As(err, &broke):
		if c.sayClose(broke.Code, broke.Fault) == nil {
			c.endTLS()
			c.discard()
		}
	default:
		c.lastRecords()
		err = fmt.Errorf("connection lost: %w", err)
	}
	c.end()
	return fmt.Errorf("read message: %w", err)
}

// discard ends the sending side and reads for a moment, for a socket closed
// with unread bytes is reset, and the peer may lose the close frame.
func (c *Conn) discard() {
	if c.tcp != nil {
		_ = c.tcp.CloseWrite()
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(closeTimeout))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.nc, 1<<20))
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// readWatch interrupts a read when its context ends. A context stays watched
// between reads with the same one, for watching costs more than reading.
type readWatch struct {
	conn *Conn

	mu      sync.Mutex
	done    <-chan struct{} // of the context watched
	stop    func() bool
	reading bool
	fired   bool
}

func (w *readWatch) begin(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = true
	if ctx.Done() == w.done {
		return nil
	}
	w.unwatch()
	done := ctx.Done()
	w.done = done
	if done != nil {
		w.stop = context.AfterFunc(ctx, func() { w.interrupt(done) })
	}
	return nil
}

// unwatch forgets the context watched; mu is held.
func (w *readWatch) unwatch() {
	if w.stop != nil {
		w.stop()
	}
	w.stop, w.done = nil, nil
}

func (w *readWatch) interrupt(done <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reading && w.done == done && !w.conn.closing.Load() {
		w.fired = true
		_ = w.conn.nc.SetReadDeadline(longAgo)
	}
}

var longAgo = time.Unix(1, 0)

// end tells whether the context has interrupted the read.
func (w *readWatch) end() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	fired := w.fired
	if fired {
		w.fired = false
		w.unwatch()
		if !w.conn.closing.Load() {
			_ = w.conn.nc.SetReadDeadline(time.Time{})
		}
	}
	return fired
}

// closeBy bounds a read under way and all to come; closing is set.
func (w *readWatch) closeBy(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unwatch()
	_ = w.conn.nc.SetReadDeadline(t)
}
