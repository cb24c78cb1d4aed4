package stream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Close says why and ends the connection: it writes a close frame, waits for
// the peer's, and closes the socket. It takes less than a second whatever the
// peer does, and ends reads and writes under way, which then fail with
// net.ErrClosed. A blocked write is given the chance to end, so that the close
// frame comes after it; a peer that reads later still finds both.
//
// Reason is cut to 123 bytes. An error says that the close frame could not be
// written; the connection is over all the same. On a connection that is closed
// already Close waits for that and returns nil.
func (c *Conn) Close(code CloseCode, reason string) error {
	said := &CloseError{Code: code, Reason: reason}
	c.said.CompareAndSwap(nil, said) // before a Read can fail for it
	if !c.closing.CompareAndSwap(false, true) {
		c.said.CompareAndSwap(said, nil)
		<-c.done
		return nil
	}
	defer c.end()
	err := c.sayClose(code, reason)
	if err == nil {
		c.awaitClose()
		c.endTLS()
	}
	return err
}

// Said is how this side has closed the connection, or nil. A Read that fails for
// it finds it.
func (c *Conn) Said() *CloseError { return c.said.Load() }

// CloseNow ends the connection at once, without a word.
func (c *Conn) CloseNow() {
	c.closing.Store(true)
	c.end()
}

// sayClose writes a close frame, after the frame that is being written.
func (c *Conn) sayClose(code CloseCode, reason string) error {
	deadline := time.Now().Add(closeTimeout)
	c.closeBy.Store(deadline.UnixNano())
	_ = c.wire.SetWriteDeadline(deadline)
	c.widen()
	late := time.NewTimer(closeTimeout + 50*time.Millisecond)
	defer late.Stop()
	select {
	case c.lock <- struct{}{}:
	case <-c.done:
		return fmt.Errorf("write close frame: %w", net.ErrClosed)
	case <-late.C:
		return fmt.Errorf("write close frame: %w", ErrStuck)
	}
	defer func() { <-c.lock }()
	if !c.whole() {
		return fmt.Errorf("write close frame: %w", c.fault)
	}
	_ = c.wire.SetWriteDeadline(deadline) // again: a write that has ended took it off
	payload := appendClosePayload(nil, code, reason)
	if err := c.writeLast(c.appendFrame(nil, opClose, payload)); err != nil {
		return fmt.Errorf("write close frame: %w", err)
	}
	return nil
}

// whole tells whether something may follow what was written. The lock is held.
func (c *Conn) whole() bool {
	return c.fault == nil || errors.Is(c.fault, ErrStuck) && !errors.Is(c.fault, errCut)
}

// writeLast writes p, and what TLS has to say before, until the socket's deadline.
// The lock is held.
func (c *Conn) writeLast(p []byte) error {
	if c.records == nil {
		_, err := c.wire.Write(p)
		return err
	}
	sealed, err := c.records.seal(c.tls, [][]byte{p})
	if sealed != nil {
		_, err = c.wire.Write(sealed.Bytes())
		sealed.Release()
	}
	return err
}

// awaitClose reads until the peer's close frame has come, for a moment.
func (c *Conn) awaitClose() {
	c.watch.closeBy(time.Now().Add(closeTimeout))
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for {
		what, err := c.in.next()
		if err != nil || what == gotClose {
			c.in.drop()
			return
		}
		if what == gotMessage {
			c.in.message().Release()
		}
	}
}

// endTLS tells a TLS peer that nothing was cut off. All it had to be told is
// in its close frame, so the time for it is short.
func (c *Conn) endTLS() {
	t, ok := c.nc.(*tls.Conn)
	if !ok || c.tcp == nil {
		return
	}
	late := time.AfterFunc(lastTimeout, func() { _ = c.tcp.Close() })
	defer late.Stop()
	_ = t.CloseWrite()
	c.lastRecords()
}

// lastRecords writes what TLS has said by itself and is kept, such as why it gives
// up: nothing else will. It does not wait long for the socket, or for who writes.
func (c *Conn) lastRecords() {
	if c.records == nil {
		return
	}
	late := time.NewTimer(lastTimeout)
	defer late.Stop()
	select {
	case c.lock <- struct{}{}:
	case <-late.C:
		return
	}
	defer func() { <-c.lock }()
	if c.whole() {
		// The deadline of a close frame may have passed while its answer was awaited.
		_ = c.wire.SetWriteDeadline(time.Now().Add(lastTimeout))
		_ = c.writeLast(nil)
	}
}

// end closes the socket.
func (c *Conn) end() {
	c.doneOnce.Do(func() {
		if c.tcp != nil {
			_ = c.tcp.Close() // not c.nc: TLS would wait to say goodbye
		}
		if c.records != nil {
			_ = c.records.Close()
		}
		_ = c.nc.Close()
		close(c.done)
		c.watch.mu.Lock()
		c.watch.unwatch()
		c.watch.mu.Unlock()
		if c.rmu.TryLock() { // otherwise the reader lets go of it
			c.in.drop()
			c.rmu.Unlock()
		}
	})
}
