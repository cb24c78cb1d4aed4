package chaos

import (
	"context"
	"testing"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/load"
)

// client is a reader that uses the SDK: it comes back by itself, and has to see
// everything.
type client struct {
	*watch
	stream *nozzle.Stream
	take   func(c *client, b *nozzle.Batch)

	gaps    []*streampb.Gap
	mayMiss int     // so many gaps are no fault
	rate    float64 // envelopes per second it takes at most; 0: no limit

	// of take
	identities identities
	next       map[int]uint64 // of a tail, by sender: the number to come
}

// startClient opens a stream that is read until the test ends.
func startClient(ctx context.Context, t *testing.T, name string, open func(context.Context, nozzle.Config) (*nozzle.Stream, error),
	conf nozzle.Config, take func(*client, *nozzle.Batch),
) *client {
	t.Helper()
	c := &client{watch: newWatch(name), take: take, next: make(map[int]uint64)}
	conf.Notify = func(n nozzle.Notice) {
		switch n.Kind {
		case nozzle.Connected:
			c.connected()
		case nozzle.Disconnected:
			c.lost(n.Err)
		}
	}
	var err error
	if c.stream, err = open(context.WithoutCancel(ctx), conf); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run()
	}()
	t.Cleanup(func() {
		_ = c.stream.Close() // acks that are lost do not matter any more
		<-ended
	})
	return c
}

// startNozzle starts a reader of a subscription that acks, and waits for it to
// be connected.
func startNozzle(ctx context.Context, t *testing.T, conf nozzle.Config) *client {
	t.Helper()
	c := startClient(ctx, t, "nozzle "+conf.Subscription, nozzle.Open, conf, (*client).atLeastOnce)
	c.until(ctx, t, "connected", func() bool { return c.connects > 0 })
	return c
}

// startTail starts a tail of a source from its first envelope on.
func startTail(ctx context.Context, t *testing.T, name string, conf nozzle.Config, source int) *client {
	t.Helper()
	c := startClient(ctx, t, name, nozzle.Tail, conf, func(c *client, b *nozzle.Batch) { c.inOrder(b, source) })
	c.until(ctx, t, "connected", func() bool { return c.connects > 0 })
	return c
}

func (c *client) run() {
	for {
		b, err := c.stream.Recv(context.Background())
		c.mu.Lock()
		if err != nil {
			if nozzle.CodeOf(err) != nozzle.CodeClosed {
				c.failf("ended: %v", err)
			}
			c.mu.Unlock()
			return
		}
		for _, gap := range b.Gaps {
			if c.gaps = append(c.gaps, gap); len(c.gaps) > c.mayMiss {
				c.failf("was told a gap: %v", gap)
			}
		}
		c.take(c, b)
		c.changed.Broadcast()
		c.mu.Unlock()
		b.Ack()
		b.Release()
	}
}

// atLeastOnce lets an envelope come twice if the second time is marked. mu is
// held.
func (c *client) atLeastOnce(b *nozzle.Batch) {
	for id, env := range b.All() {
		packed, _, ok := load.Identify(env)
		if !ok {
			c.failf("%v is an envelope nobody here made", id)
			return
		}
		c.took(id, packed, b.Redelivered)
	}
}

// took accounts for an envelope. mu is held.
func (c *client) took(id nozzle.ID, packed uint64, redelivered bool) {
	switch again, err := c.identities.add(id, packed, &c.ids); {
	case err != nil:
		c.failf("%v", err)
	case again && !redelivered:
		c.failf("%+v, which is %v, came again and is not marked", load.Unpack(packed), id)
	case again:
		c.again++
	default:
		c.total++
	}
}

// inOrder wants each sender's envelopes of one source from the first on, once
// each. mu is held.
func (c *client) inOrder(b *nozzle.Batch, source int) {
	for id, env := range b.All() {
		packed, _, ok := load.Identify(env)
		e := load.Unpack(packed)
		if !ok || e.Source != source {
			c.failf("%v is not of source %d: %+v", id, source, e)
			return
		}
		if next := c.next[e.Sender]; e.N != next {
			c.failf("%v is number %d of sender %d, %d is to come", id, e.N, e.Sender, next)
			return
		}
		c.next[e.Sender]++
		c.ids.Add(e)
		c.total++
	}
}
