package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// pending holds the control frames that wait for the lock. Of each kind only
// the last is kept, which is all a peer can ask for (RFC 6455, 5.5.3).
type pending struct {
	any atomic.Bool

	mu      sync.Mutex
	pong    []byte // payload, nil when there is none
	ping    []byte
	pings   uint64 // made by Ping
	waiters map[uint64]chan struct{}
	retry   *time.Timer // made when the socket first takes nothing
}

// retryLate is after how long what the socket did not take is tried again: the
// write that it had to wait for may have been the last.
const retryLate = 100 * time.Millisecond

// post writes a ping or pong: now, or, should a write be under way, after it.
func (c *Conn) post(op opcode, payload []byte) {
	c.late.mu.Lock()
	kept := append(make([]byte, 0, len(payload)), payload...)
	if op == opPing {
		c.late.ping = kept
	} else {
		c.late.pong = kept
	}
	c.late.any.Store(true)
	c.late.mu.Unlock()
	c.flush()
}

// flush writes what was posted, if nobody holds the lock; who does, flushes
// when it gives it back.
func (c *Conn) flush() {
	for c.late.any.Load() {
		select {
		case c.lock <- struct{}{}:
		default:
			return
		}
		taken := c.writeLate()
		<-c.lock
		if !taken {
			c.late.again(retryLate, c.flush)
			return
		}
	}
}

// writeLate writes what was posted, and before it what TLS has to say; the lock is
// held. It reports false when the socket takes nothing now: then it stays posted.
func (c *Conn) writeLate() bool {
	c.late.any.Store(false)
	if c.fault != nil || c.closing.Load() {
		return true
	}
	if c.records != nil && !c.writeControl(nil) {
		return false
	}
	pong, ping := c.late.take()
	var frames []byte
	if pong != nil {
		frames = c.appendFrame(frames, opPong, pong)
	}
	if ping != nil {
		frames = c.appendFrame(frames, opPing, ping)
	}
	if len(frames) == 0 || c.writeControl(frames) {
		return true
	}
	if c.records == nil {
		c.late.back(pong, ping)
	}
	return false
}

// writeControl writes frames. It reports false when the socket takes nothing of
// them, or with TLS not all: then they were not written, or what is left is kept.
func (c *Conn) writeControl(frames []byte) bool {
	rest, n, err := c.try([][]byte{frames})
	switch {
	case rest == nil:
	case c.raw != nil && c.records != nil:
		c.records.back(rest)
		c.late.any.Store(true)
		return false
	case c.raw != nil && n == 0:
		rest.Release()
		return false
	default:
		err = c.writeBlocking(context.Background(), rest.Bytes(), controlTimeout)
		rest.Release()
	}
	if err != nil {
		_ = c.writeFailed("write control frame", err)
	}
	return true
}

// take returns what was posted.
func (p *pending) take() (pong, ping []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pong, ping = p.pong, p.ping
	p.pong, p.ping = nil, nil
	return pong, ping
}

// back posts again what could not be written, unless something newer was.
func (p *pending) back(pong, ping []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pong == nil {
		p.pong = pong
	}
	if p.ping == nil {
		p.ping = ping
	}
	p.any.Store(true)
}

// again runs f in a while.
func (p *pending) again(after time.Duration, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retry == nil {
		p.retry = time.AfterFunc(after, f)
		return
	}
	p.retry.Reset(after)
}

// Ping sends a ping and waits for its pong, which Read has to take in
// meanwhile. It fails when ctx ends or the connection is over; neither breaks
// the connection.
func (c *Conn) Ping(ctx context.Context) error {
	answered, id := c.late.expect()
	defer c.late.forget(id)
	c.post(opPing, binary.BigEndian.AppendUint64(nil, id))
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for pong: %w", ctx.Err())
	case <-c.done:
		return fmt.Errorf("wait for pong: %w", net.ErrClosed)
	}
}

func (p *pending) expect() (<-chan struct{}, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pings++
	if p.waiters == nil {
		p.waiters = map[uint64]chan struct{}{}
	}
	answered := make(chan struct{})
	p.waiters[p.pings] = answered
	return answered, p.pings
}

func (p *pending) forget(id uint64) {
	p.mu.Lock()
	delete(p.waiters, id)
	p.mu.Unlock()
}

// pong takes an answer. It stands for every ping before it, too, for of those
// waiting only the last is sent.
func (p *pending) answer(payload []byte) {
	if len(payload) != 8 {
		return
	}
	answered := binary.BigEndian.Uint64(payload)
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, waits := range p.waiters {
		if id <= answered {
			close(waits)
			delete(p.waiters, id)
		}
	}
}
