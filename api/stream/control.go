package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
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
}

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
			return
		}
	}
}

// writeLate writes what was posted; the lock is held. It reports false when
// the socket takes nothing now: then it stays posted for the next.
func (c *Conn) writeLate() bool {
	c.late.mu.Lock()
	pong, ping := c.late.pong, c.late.ping
	c.late.pong, c.late.ping = nil, nil
	c.late.any.Store(false)
	c.late.mu.Unlock()
	if c.fault != nil || c.closing.Load() {
		return true
	}
	var frames []byte
	if pong != nil {
		frames = c.appendFrame(frames, opPong, pong)
	}
	if ping != nil {
		frames = c.appendFrame(frames, opPing, ping)
	}
	if len(frames) == 0 {
		return true
	}
	n := 0
	if c.raw != nil {
		var err error
		if n, err = tryWrite(c.raw, [][]byte{frames}); err != nil {
			_ = c.writeFailed("write control frame", err)
			return true
		}
		if n == 0 {
			c.late.back(pong, ping)
			return false
		}
	}
	if n < len(frames) {
		if err := c.writeBlocking(context.Background(), frames[n:], controlTimeout); err != nil {
			_ = c.writeFailed("write control frame", err)
		}
	}
	return true
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
