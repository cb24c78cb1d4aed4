package stream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"nhooyr.io/websocket"
)

// DefaultSocketBuffer is the size in bytes set on both directions of every
// socket unless told otherwise.
const DefaultSocketBuffer = 256 << 10

// DefaultReadLimit is the largest message in bytes a reader takes from another
// of our services.
const DefaultReadLimit = 16 << 20

// Conn is one WebSocket, either side. Read may run concurrently with every
// other method but not with itself; all other methods may be called from
// anywhere.
type Conn struct {
	// static
	raw         net.Conn
	plain       syscall.RawConn // nil on TLS
	ws          *websocket.Conn // client side; nil on the server
	subprotocol string
	limit       int64
	pong        atomic.Int64 // unix nanoseconds of the last pong, or of the start

	rmu sync.Mutex // held while reading
	br  *bufio.Reader

	wmu      sync.Mutex // held while a frame is written
	werr     error      // guarded by wmu: why nothing can be written any more
	closing  atomic.Bool
	closed   chan struct{}
	closeRaw sync.Once
}

// AcceptOptions says how to take a WebSocket. The zero value is usable.
type AcceptOptions struct {
	// Subprotocols the server speaks, best first. The first one the client
	// offers as well is chosen; see Conn.Subprotocol.
	Subprotocols []string
	SocketBuffer int   // bytes; DefaultSocketBuffer
	ReadLimit    int64 // bytes of a message; 64 KiB
}

// Accept answers the handshake of r. On an error it has answered already, in
// plain words: 426 to a request that asks for no WebSocket, 400 to a broken
// one. When it returns a Conn the handler may return too: the connection is
// the caller's, who has to keep reading and to close it.
//
// Any Origin is accepted: the services decide by token, never by cookie alone.
func Accept(w http.ResponseWriter, r *http.Request, o AcceptOptions) (*Conn, error) {
	if !isUpgrade(r) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "this path speaks WebSocket: send an Upgrade request (RFC 6455)", http.StatusUpgradeRequired)
		return nil, errors.New("accept WebSocket: not an upgrade request")
	}
	h := &hijacker{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols: o.Subprotocols, InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, fmt.Errorf("accept WebSocket: %w", err)
	}
	// The library has done the handshake; from here on the frames are ours.
	// Its own goroutine and buffers end with the shell it was given.
	subprotocol := ws.Subprotocol()
	_ = ws.CloseNow()
	limit := o.ReadLimit
	if limit <= 0 {
		limit = 64 << 10
	}
	c := newConn(h.conn, o.SocketBuffer, limit)
	c.subprotocol = subprotocol
	var in io.Reader = h.conn
	if len(h.early) > 0 {
		in = io.MultiReader(bytes.NewReader(h.early), h.conn)
	}
	c.br = bufio.NewReaderSize(in, 256)
	return c, nil
}

func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

func hasToken(h http.Header, key, token string) bool {
	for _, v := range h.Values(key) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// hijacker lends the library a connection for the handshake only.
type hijacker struct {
	http.ResponseWriter
	conn  net.Conn
	early []byte // what the client sent right behind its request
}

// Hijack keeps the connection and returns a shell of it.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	hj, ok := h.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the HTTP server cannot hand over its connection")
	}
	conn, rw, err := hj.Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := rw.Reader.Buffered(); n > 0 {
		h.early = make([]byte, n)
		if _, err := io.ReadFull(rw.Reader, h.early); err != nil {
			return nil, nil, err
		}
	}
	h.conn = conn
	shell := shellConn{conn}
	return shell, bufio.NewReadWriter(bufio.NewReaderSize(shell, 16), bufio.NewWriterSize(shell, 16)), nil
}

// shellConn reads nothing, writes nothing and cannot be closed.
type shellConn struct{ net.Conn }

func (shellConn) Read([]byte) (int, error)    { return 0, io.EOF }
func (shellConn) Write(b []byte) (int, error) { return len(b), nil }
func (shellConn) Close() error                { return nil }

func newConn(raw net.Conn, buffer int, limit int64) *Conn {
	c := &Conn{raw: raw, limit: limit, closed: make(chan struct{})}
	c.pong.Store(time.Now().UnixNano())
	if buffer <= 0 {
		buffer = DefaultSocketBuffer
	}
	_ = raw.SetDeadline(time.Time{})
	inner := raw
	if t, ok := raw.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	if t, ok := inner.(*net.TCPConn); ok {
		_ = t.SetReadBuffer(buffer)
		_ = t.SetWriteBuffer(buffer)
		_ = t.SetNoDelay(true)
		if inner == raw {
			if rc, err := t.SyscallConn(); err == nil {
				c.plain = rc
			}
		}
	}
	return c
}

// Subprotocol is what the handshake agreed on, or empty.
func (c *Conn) Subprotocol() string { return c.subprotocol }

// RemoteAddr is the peer's address, or empty when it is not known.
func (c *Conn) RemoteAddr() string {
	if c.raw == nil {
		return ""
	}
	return c.raw.RemoteAddr().String()
}

// Done is closed when the connection is.
func (c *Conn) Done() <-chan struct{} { return c.closed }

// Read returns the next binary message; the caller has to release it. An
// ended connection is a *CloseError when the peer closed it with a code.
func (c *Conn) Read(ctx context.Context) (*Buffer, error) {
	if c.ws != nil {
		return c.readClient(ctx)
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	b, err := c.readServer()
	if err != nil && c.closing.Load() {
		err = fmt.Errorf("%w (%w)", net.ErrClosed, err)
	}
	return b, err
}

// CloseNow ends the connection without a word.
func (c *Conn) CloseNow() {
	c.closeRaw.Do(func() {
		c.closing.Store(true)
		close(c.closed)
		if c.ws != nil {
			_ = c.ws.CloseNow()
			return
		}
		_ = c.raw.Close()
	})
}

const closeWait = 400 * time.Millisecond

// Close tells the peer code and reason (cut to 123 bytes) if its socket takes
// them, and ends the connection. It takes less than a second, whatever the
// peer or a blocked writer does.
func (c *Conn) Close(code CloseCode, reason string) error {
	if c.closing.Swap(true) {
		<-c.closed
		return nil
	}
	defer c.CloseNow()
	if c.ws != nil {
		return c.closeClient(code, reason)
	}
	if !c.lockWrite(closeWait) {
		return fmt.Errorf("close WebSocket: the writer is blocked")
	}
	err := c.werr
	if err == nil {
		_ = c.raw.SetWriteDeadline(time.Now().Add(closeWait))
		_, err = c.raw.Write(appendClose(nil, code, reason))
		c.werr = net.ErrClosed
	}
	c.wmu.Unlock()
	if err != nil {
		return fmt.Errorf("close WebSocket: %w", err)
	}
	// Wait for the peer's answer, so that what is still in the socket is not
	// thrown away by a reset.
	_ = c.raw.SetReadDeadline(time.Now().Add(closeWait))
	c.rmu.Lock()
	_, _ = io.CopyN(io.Discard, c.raw, 1<<20)
	c.rmu.Unlock()
	return nil
}

// lockWrite takes wmu unless that takes longer than wait.
func (c *Conn) lockWrite(wait time.Duration) bool {
	for deadline := time.Now().Add(wait); ; {
		if c.wmu.TryLock() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}
