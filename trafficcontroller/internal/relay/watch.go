package relay

import (
	"maps"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// waiting is what of a client waits for its socket.
type waiting struct {
	messages  int
	envelopes uint64
	bytes     int
	since     int64 // when the oldest came
}

func (w *waiting) add(i *item) {
	if w.messages == 0 {
		w.since = i.at
	}
	w.messages++
	w.envelopes += uint64(i.count)
	w.bytes += i.buf.Len()
}

// watch is what is remembered of a client to tell whether it is slow.
type watch struct {
	judge slow.Judge
	heard uint64 // heartbeats, at the last look
	slow  bool
	cut   slow.Cut
	final *slow.Lag // once it has ended
}

// look looks at how far every client is behind.
func (r *Relay) look(now time.Time) {
	r.mu.Lock()
	clients := slices.Collect(maps.Keys(r.clients))
	r.mu.Unlock()
	for _, c := range clients {
		c.look(now)
	}
}

// look judges the client, and cuts it if it is slow and may not be. In its
// first time it may owe its lag to others.
func (c *Client) look(now time.Time) {
	policy := c.options.Slow
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || now.Sub(c.opened) < policy.Age {
		return
	}
	l, here := c.behind(now)
	heard := c.heard.Load()
	if heard == c.watch.heard && !policy.Over(here) {
		return // nothing is known that was not at the last look
	}
	c.watch.heard = heard
	if here.Envelopes == 0 && !c.options.Acking {
		l = slow.Lag{Dropped: l.Dropped} // it takes all it is given: its group is behind for another reason
	}
	if c.watch.slow = c.watch.judge.Look(policy, l) == slow.Slow; c.watch.slow && policy.Cut && c.end(slow.Lagging, l) {
		// Its reader has not ended, so neither has the relay.
		c.relay.wg.Go(func() { c.closeWith(c.slowCode(), slow.Reason(l)) })
	}
}

// behind is how far the client is behind, and what of that waits here. mu is
// held.
func (c *Client) behind(now time.Time) (all, here slow.Lag) {
	w := c.taken
	for i := range c.queue {
		w.add(&c.queue[i])
	}
	if w.envelopes > 0 {
		here = slow.Lag{Envelopes: w.envelopes, Bytes: uint64(w.bytes), Age: max(now.Sub(time.Unix(0, w.since)), 0)}
	}
	all = here
	all.Dropped = c.missed.Load()
	for _, m := range c.members {
		if l := m.lag.Load(); l != nil {
			all.Envelopes += l.Envelopes
			all.Bytes += l.Bytes
			all.Age = max(all.Age, l.Age)
		}
	}
	return all, here
}

// end makes an end of writing to the client, and reports whether this was the
// first to do so. mu is held.
func (c *Client) end(cut slow.Cut, l slow.Lag) (first bool) {
	first = c.watch.final == nil
	if first {
		c.watch.final, c.watch.cut = &l, cut
	}
	c.ended = true
	c.dropQueue()
	c.signal()
	return first
}

// told is how far the client is behind, for its heartbeat.
func (c *Client) told() slow.Lag {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, _ := c.behind(time.Now())
	return l
}

func (c *Client) slowCode() stream.CloseCode {
	if f := c.options.Framing; f != nil {
		return f.SlowCode
	}
	return stream.CloseStuck
}

func (c *Client) stuckTimeout() time.Duration {
	if f := c.options.Framing; f != nil {
		return f.StuckTimeout
	}
	return c.relay.cfg.StuckTimeout
}

// Row is what a view shows of a client.
type Row struct {
	Options  *Options // read only
	Filter   string
	Opened   time.Time
	Dopplers int // connected
	// Lag is as of the last heartbeats; Here is what of it waits in this Traffic
	// Controller.
	Lag, Here slow.Lag
	Slow      bool
	Cut       slow.Cut
	Sent      uint64
	Bytes     uint64
	Gaps      uint64
}

// Row may be called at any time. That of a client that has gone says how far it
// was behind then.
func (c *Client) Row() Row {
	row := Row{
		Options: &c.options, Filter: c.options.Query.Encode(), Opened: c.opened,
		Sent: c.sent.Load(), Bytes: c.bytes.Load(), Gaps: c.gaps.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	row.Lag, row.Here = c.behind(time.Now())
	row.Slow, row.Cut = c.watch.slow, c.watch.cut
	if c.watch.final != nil {
		row.Lag = *c.watch.final
		row.Lag.Dropped = c.missed.Load()
	}
	for _, m := range c.members {
		if m.up.Load() {
			row.Dopplers++
		}
	}
	return row
}
