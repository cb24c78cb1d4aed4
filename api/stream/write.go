package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// errCut is ErrStuck with a frame written half: not even a close frame can
// follow.
var errCut = fmt.Errorf("%w, and a frame was cut", ErrStuck)

// blockedChunk is how much of a message that has to wait goes to the socket at
// a time: each has the whole timeout, so a slow reader is not a stuck one.
const blockedChunk = 64 << 10

// WriteFrames writes encoded server frames (AppendFrameHeader, Buffer.Frame),
// cut into any pieces. It is for servers.
//
// It first writes what the socket takes at once. The rest, if any, it copies;
// then it calls release, exactly once and before it waits for anything but the
// conn's lock: from there on bufs are not used. spilled tells that there was a
// rest. release may be nil. With TLS, and where the socket cannot be asked,
// everything is copied first. Finally it blocks until all is written, which fails
// with ErrStuck when the peer takes nothing for timeout (60 s if not positive).
// Frames of concurrent calls, and control frames, do not interleave.
//
// After an error nothing more can be written; the connection has to be closed.
func (c *Conn) WriteFrames(bufs [][]byte, release func(spilled bool), timeout time.Duration) error {
	if release == nil {
		release = func(bool) {}
	}
	if timeout <= 0 {
		timeout = controlTimeout
	}
	if err := c.acquire(timeout, nil); err != nil {
		release(false)
		return fmt.Errorf("write frames: %w", err)
	}
	defer c.unlock()
	rest, _, err := c.try(bufs)
	release(rest != nil && c.raw != nil)
	if err != nil {
		return c.writeFailed("write frames", err)
	}
	if rest == nil {
		return nil
	}
	return c.writeRest(rest, timeout)
}

// try writes what the socket takes at once, and returns a copy of the rest, as it
// has to be written, or nil if there is none, and how many bytes were. The lock is
// held.
func (c *Conn) try(bufs [][]byte) (rest *Buffer, n int, err error) {
	if c.records != nil {
		return c.trySealed(bufs)
	}
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	if c.raw != nil {
		if n, err = tryWrite(c.raw, bufs); err != nil || n == total {
			return nil, n, err
		}
	}
	return gather(bufs, n, total), n, nil
}

// trySealed is try with TLS.
func (c *Conn) trySealed(bufs [][]byte) (rest *Buffer, n int, err error) {
	sealed, err := c.records.seal(c.tls, bufs)
	if err != nil || sealed == nil {
		return nil, 0, err
	}
	if c.raw != nil {
		n, err = tryWrite(c.raw, [][]byte{sealed.Bytes()})
	}
	if err != nil || n == sealed.Len() {
		sealed.Release()
		return nil, n, err
	}
	sealed.skip(n)
	return sealed, n, nil
}

// writeRest writes what the socket has not taken at once, and releases it. The
// lock is held.
func (c *Conn) writeRest(rest *Buffer, timeout time.Duration) error {
	err := c.writeBlocking(context.Background(), rest.Bytes(), timeout)
	rest.Release()
	if err != nil {
		return c.writeFailed("write frames", err)
	}
	return nil
}

// Unwritten is what a socket has not taken of the frames of TryWriteFrames.
type Unwritten struct {
	conn *Conn
	rest *Buffer
}

// TryWriteFrames is WriteFrames without waiting: it writes what the socket
// takes at once. What it does not take is copied to rest, which has to be
// finished, by any goroutine; until then nobody else can write. After it has
// returned bufs are not used. With ok false nothing was written, because the
// socket cannot be asked (TLS not of NewTLSListener) or somebody else is writing:
// WriteFrames can.
func (c *Conn) TryWriteFrames(bufs [][]byte) (rest *Unwritten, ok bool, err error) {
	if c.raw == nil {
		return nil, false, nil
	}
	select {
	case c.lock <- struct{}{}:
	default:
		return nil, false, nil
	}
	if over := c.fault != nil || c.closing.Load(); over {
		<-c.lock
		return nil, false, nil // WriteFrames tells why
	}
	left, _, err := c.try(bufs)
	if left != nil {
		return &Unwritten{c, left}, true, nil
	}
	if err != nil {
		err = c.writeFailed("write frames", err)
	}
	c.unlock()
	return nil, true, err
}

// Finish writes the rest. It blocks, and fails, as WriteFrames does.
func (u *Unwritten) Finish(timeout time.Duration) error {
	if timeout <= 0 {
		timeout = controlTimeout
	}
	defer u.conn.unlock()
	return u.conn.writeRest(u.rest, timeout)
}

// gather copies what comes after the first skip bytes of bufs.
func gather(bufs [][]byte, skip, total int) *Buffer {
	rest := NewBuffer(total - skip)
	dst := rest.Bytes()
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		dst = dst[copy(dst, b[skip:]):]
		skip = 0
	}
	return rest
}

// Send writes one binary message. It blocks until the socket has taken it, and
// may run concurrently. Should ctx end while it waits for the socket, the
// connection is broken; while it waits for another Send, it is not.
func (c *Conn) Send(ctx context.Context, msg []byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	frame := c.message(msg)
	defer frame.Release()
	if err := c.acquire(0, ctx.Done()); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("send message: %w", err)
	}
	defer c.unlock()
	rest, _, err := c.try([][]byte{frame.Bytes()})
	if rest != nil {
		err = c.writeUntil(ctx, rest.Bytes())
		rest.Release()
	}
	if err != nil {
		return c.writeFailed("send message", err)
	}
	return nil
}

// writeUntil writes p unless ctx ends before. The lock is held.
func (c *Conn) writeUntil(ctx context.Context, p []byte) error {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.wire.SetWriteDeadline(longAgo)
		close(fired)
	})
	err := c.writeBlocking(ctx, p, 0)
	if stop() {
		return err
	}
	<-fired
	if err != nil {
		return ctx.Err()
	}
	_ = c.wire.SetWriteDeadline(c.closeDeadline())
	return nil
}

// message makes a frame of msg, header included in its bytes.
func (c *Conn) message(msg []byte) *Buffer {
	b := NewBuffer(maxHeader + len(msg))
	p := c.appendFrame(b.Bytes()[:0], opBinary, msg)
	b.Resize(len(p))
	return b
}

// appendFrame appends a frame as this side of the connection has to send it.
func (c *Conn) appendFrame(dst []byte, op opcode, payload []byte) []byte {
	if !c.client {
		return append(appendHeader(dst, op, len(payload), 0), payload...)
	}
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails
	dst = append(appendHeader(dst, op, len(payload), maskBit), key[:]...)
	at := len(dst)
	dst = append(dst, payload...)
	mask(dst[at:], key, 0)
	return dst
}

// acquire takes the lock for writing. It fails when writing is over, after
// timeout unless 0, and when given up is closed.
func (c *Conn) acquire(timeout time.Duration, givenUp <-chan struct{}) error {
	select {
	case c.lock <- struct{}{}:
	default:
		var late <-chan time.Time
		if timeout > 0 {
			t := time.NewTimer(timeout)
			defer t.Stop()
			late = t.C
		}
		select {
		case c.lock <- struct{}{}:
		case <-late:
			return ErrStuck
		case <-givenUp:
			return os.ErrDeadlineExceeded
		case <-c.done:
			return net.ErrClosed
		}
	}
	err := c.fault
	if c.closing.Load() && err == nil {
		err = net.ErrClosed
	}
	if err != nil {
		<-c.lock
	}
	return err
}

// unlock gives the lock back and writes what was posted meanwhile.
func (c *Conn) unlock() {
	<-c.lock
	c.flush()
}

// writeFailed notes that the connection cannot be written to any more; the
// lock is held.
func (c *Conn) writeFailed(action string, err error) error {
	if c.closing.Load() {
		err = net.ErrClosed
	}
	if c.fault == nil {
		c.fault = err
	}
	return fmt.Errorf("%s: %w", action, err)
}

// writeBlocking writes p, waiting for the socket as long as every chunk is
// taken within timeout (for ever if 0). The end of ctx is noticed between
// chunks. The lock is held.
//
// When a chunk is not taken in time, the socket's buffer is widened for what
// is under way, so that the connection remains whole and can be closed with a
// code, which a peer that wakes up again gets to see.
func (c *Conn) writeBlocking(ctx context.Context, p []byte, timeout time.Duration) error {
	began := time.Now()
	c.blocked.Store(began.UnixNano())
	defer func() {
		if now := time.Now(); now.Sub(began) > longWrite {
			c.freed.Store(now.UnixNano())
		}
		c.blocked.Store(0)
	}()
	for len(p) > 0 {
		chunk := p[:min(len(p), blockedChunk)]
		c.arm(timeout)
		n, err := 0, ctx.Err() // before arm it had no effect
		if err == nil {
			n, err = c.wire.Write(chunk)
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && timeout > 0 {
				err = errCut
			}
			c.disarm()
			return err
		}
		p = p[n:]
	}
	c.disarm()
	if c.stalled.Load() {
		return ErrStuck
	}
	return nil
}

// arm bounds the next write. The lock is held.
func (c *Conn) arm(timeout time.Duration) {
	deadline := time.Time{}
	if timeout > 0 {
		deadline = time.Now().Add(timeout + closeTimeout)
		if c.stall == nil {
			c.stall = time.AfterFunc(timeout, func() {
				c.stalled.Store(true)
				c.widen()
			})
		} else {
			c.stall.Reset(timeout)
		}
	}
	_ = c.wire.SetWriteDeadline(deadline)
	if by := c.closeDeadline(); !by.IsZero() {
		_ = c.wire.SetWriteDeadline(by)
	}
}

// closeDeadline bounds writing when the connection is closing; otherwise it is
// zero.
func (c *Conn) closeDeadline() time.Time {
	if by := c.closeBy.Load(); by != 0 {
		return time.Unix(0, by)
	}
	return time.Time{}
}

func (c *Conn) disarm() {
	if c.stall != nil {
		c.stall.Stop()
	}
	if c.raw != nil && c.closeBy.Load() == 0 {
		_ = c.wire.SetWriteDeadline(time.Time{})
	}
}

// widen lets the socket take what a blocked write holds, and a close frame.
// How far it goes is up to the system.
func (c *Conn) widen() {
	if c.tcp != nil {
		_ = c.tcp.SetWriteBuffer(4*c.buffer + 1<<20)
	}
}
