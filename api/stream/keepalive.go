package stream

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// How a KeepAlive pings. Load balancers cut what is idle for a minute or less.
const (
	pingInterval = 15 * time.Second
	pingJitter   = pingInterval / 5 // taken off at random
	pongTimeout  = 20 * time.Second
	missedPong   = "missed pong: nothing heard for 20 s after a ping"
	// What clients of the old framing expect (protocol/03).
	oldPongTimeout = 30 * time.Second
	oldMissedPong  = "Client did not respond to ping before keep-alive timeout expired."
	// Pings due within it go out together.
	pingTogether = 100 * time.Millisecond
	// A write that took longer has waited for the peer.
	longWrite = 50 * time.Millisecond
)

// KeepAlive pings many server connections from one goroutine, every 12 to 15 s
// each, and closes those from which nothing is heard for 20 s after a ping with
// ClosePolicy. While a write waits for the peer to take it, that clock stands
// still: a reader that is slow is not one that is gone, and the timeout of the
// write decides. All methods may run concurrently.
type KeepAlive struct {
	began   time.Time
	first   time.Duration // the first ping comes within it; 0 is at once
	timeout time.Duration // to answer a ping
	reason  string        // of the close for a missed pong
	earlier chan struct{} // signalled when the first that is due has changed
	closing sync.WaitGroup

	mu  sync.Mutex
	due pulses
}

// NewKeepAlive returns a KeepAlive; it pings while Run runs.
func NewKeepAlive() *KeepAlive { return newKeepAlive(pingInterval, pongTimeout, missedPong) }

// NewOldKeepAlive returns a KeepAlive for clients of the old framing. The first
// ping goes out at once, a pong may take 30 s, and the reason of the close is the
// one they know (protocol/03).
func NewOldKeepAlive() *KeepAlive { return newKeepAlive(0, oldPongTimeout, oldMissedPong) }

func newKeepAlive(first, timeout time.Duration, reason string) *KeepAlive {
	return &KeepAlive{began: time.Now(), first: first, timeout: timeout, reason: reason, earlier: make(chan struct{}, 1)}
}

// pulse is the care for one connection; it lies in the Conn.
type pulse struct {
	conn   *Conn
	place  int           // in the heap, from 1; 0 when not in it
	at     time.Duration // since KeepAlive.began: what is next
	pinged time.Duration
	heard  uint64 // frames before the ping
	waits  bool   // for an answer
}

// Add takes c into care, until it is closed or removed. A Conn can be in the
// care of one KeepAlive only. A first ping that goes out at once is written
// before Add returns, over plain TCP: nothing comes before it.
func (k *KeepAlive) Add(c *Conn) {
	if k.add(c) {
		k.ping(c)
	}
}

// add tells whether a ping has to go out now.
func (k *KeepAlive) add(c *Conn) (ping bool) {
	p := &c.pulse
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.place != 0 {
		return false
	}
	now := k.now()
	if ping = k.first == 0; ping {
		*p = pulse{conn: c, at: now + pingInterval - rand.N(pingJitter), waits: true, heard: c.in.heard.Load(), pinged: now}
	} else {
		*p = pulse{conn: c, at: now + rand.N(k.first)}
	}
	heap.Push(&k.due, p)
	k.signal(p)
	return ping
}

// Remove ends the care for c, if it is in care.
func (k *KeepAlive) Remove(c *Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.pulse.place != 0 {
		heap.Remove(&k.due, c.pulse.place-1)
	}
}

// Run pings until ctx ends. Connections stay open then.
func (k *KeepAlive) Run(ctx context.Context) {
	defer k.closing.Wait()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-k.earlier:
		case <-ctx.Done():
			return
		}
		t.Reset(k.round())
	}
}

func (k *KeepAlive) now() time.Duration { return time.Since(k.began) }

// signal makes Run look again if p is due first. mu is held.
func (k *KeepAlive) signal(p *pulse) {
	if p.place != 1 {
		return
	}
	select {
	case k.earlier <- struct{}{}:
	default:
	}
}

// round does what is due, and tells how long to sleep.
func (k *KeepAlive) round() time.Duration {
	for {
		k.mu.Lock()
		now := k.now()
		if len(k.due) == 0 {
			k.mu.Unlock()
			return pingInterval
		}
		p := k.due[0]
		if wait := p.at - now; wait > pingTogether {
			k.mu.Unlock()
			return wait
		}
		c := p.conn
		act := k.turn(p, now)
		k.mu.Unlock()
		switch act {
		case sendPing:
			k.ping(c)
		case giveUp:
			k.closing.Go(func() { _ = c.Close(ClosePolicy, k.reason) })
		}
	}
}

// action is what a turn asks for.
type action int

const (
	nothing action = iota
	sendPing
	giveUp
)

// turn decides about the first pulse and puts it in its new place. mu is held.
func (k *KeepAlive) turn(p *pulse, now time.Duration) action {
	c := p.conn
	if c.closing.Load() {
		heap.Remove(&k.due, p.place-1)
		return nothing
	}
	heard := c.in.heard.Load()
	act := nothing
	switch {
	case !p.waits || heard != p.heard:
		p.waits, p.heard, p.pinged = true, heard, now
		p.at = now + pingInterval - rand.N(pingJitter)
		act = sendPing
	case now < p.pinged+k.timeout:
		p.at = p.pinged + k.timeout
	default:
		if took := k.lastTook(c, now); took+k.timeout > now {
			p.at = took + k.timeout
			break
		}
		heap.Remove(&k.due, p.place-1)
		return giveUp
	}
	heap.Fix(&k.due, p.place-1)
	return act
}

// lastTook is when the peer last took something it had been waited for; now,
// while it is waited for.
func (k *KeepAlive) lastTook(c *Conn, now time.Duration) time.Duration {
	if since := c.blocked.Load(); since != 0 && time.Since(time.Unix(0, since)) > longWrite {
		return now
	}
	if at := c.freed.Load(); at != 0 {
		return time.Unix(0, at).Sub(k.began)
	}
	return -k.timeout
}

// ping posts a ping. Where a write cannot be tried without blocking, it gets a
// goroutine: nobody's pings wait for another's socket.
func (k *KeepAlive) ping(c *Conn) {
	if c.raw != nil {
		c.post(opPing, nil)
		return
	}
	k.closing.Go(func() { c.post(opPing, nil) })
}

// pulses is a heap by time.
type pulses []*pulse

func (h pulses) Len() int           { return len(h) }
func (h pulses) Less(i, j int) bool { return h[i].at < h[j].at }

func (h pulses) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

// Push is for package heap.
func (h *pulses) Push(x any) {
	p := x.(*pulse)
	*h = append(*h, p)
	p.place = len(*h)
}

// Pop is for package heap.
func (h *pulses) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	p.place = 0
	return p
}
