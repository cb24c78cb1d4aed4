package stream

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// How often an accepted connection is pinged, and how long it may take to
// answer.
const (
	pingEvery   = 15
	pongTimeout = 20 * time.Second
)

// KeepAlive pings many accepted connections from one goroutine and closes
// those that do not answer. Every load balancer's idle limit is longer than
// its interval. All methods may be called concurrently.
type KeepAlive struct {
	mu    sync.Mutex
	slots [pingEvery]map[*Conn]time.Time // when it was pinged last
}

// NewKeepAlive returns a KeepAlive; it works while Run does.
func NewKeepAlive() *KeepAlive {
	k := &KeepAlive{}
	for i := range k.slots {
		k.slots[i] = map[*Conn]time.Time{}
	}
	return k
}

// Add begins to ping c, at a time of its own.
func (k *KeepAlive) Add(c *Conn) {
	k.mu.Lock()
	k.slots[rand.IntN(pingEvery)][c] = time.Time{}
	k.mu.Unlock()
}

// Remove ends that. It may be called for a Conn that was never added.
func (k *KeepAlive) Remove(c *Conn) {
	k.mu.Lock()
	for _, slot := range k.slots {
		delete(slot, c)
	}
	k.mu.Unlock()
}

// Run pings until ctx ends.
func (k *KeepAlive) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 0; ; i = (i + 1) % pingEvery {
		select {
		case now := <-tick.C:
			k.round(now, i)
		case <-ctx.Done():
			return
		}
	}
}

// round pings one slot and closes what has been silent for too long.
func (k *KeepAlive) round(now time.Time, turn int) {
	var due, dead []*Conn
	k.mu.Lock()
	for i, slot := range k.slots {
		for c, pinged := range slot {
			switch {
			case !pinged.IsZero() && now.Sub(pinged) > pongTimeout && c.pong.Load() < pinged.UnixNano():
				dead = append(dead, c)
				delete(slot, c)
			case i == turn && (pinged.IsZero() || c.pong.Load() >= pinged.UnixNano()):
				slot[c] = now
				due = append(due, c)
			}
		}
	}
	k.mu.Unlock()
	for _, c := range due {
		c.ping()
	}
	for _, c := range dead {
		go func() { _ = c.Close(ClosePolicy, "no answer to a ping in 20 s") }()
	}
}
