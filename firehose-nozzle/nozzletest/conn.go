package nozzletest

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// writeTimeout is how long a nozzle may take nothing, as in the real server.
const writeTimeout = time.Minute

// conn is one connection of a nozzle.
type conn struct {
	*stream.Conn
	server *Server
	group  *group
	auto   bool
	left   chan struct{} // closed when its leases are free

	// guarded by the server's mu
	extra    [][]byte        // to be sent as they are
	known    map[*epoch]bool // whose position was sent
	finished map[*epoch]bool // whose fin was sent
	past     bool            // a tail asked for what was before, and has not been told where it ends
	lease    uint64          // last number given
}

// serve answers a handshake and reads what the nozzle says.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{Path: r.URL.EscapedPath(), Query: r.URL.Query(), Header: r.Header.Clone()})
	var refused *refusal
	if len(s.refusals) > 0 {
		refused = &s.refusals[0]
		s.refusals = s.refusals[1:]
	}
	s.wake()
	s.mu.Unlock()
	if refused != nil {
		http.Error(w, refused.body, refused.status)
		return
	}
	c, err := s.admit(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if c == nil {
		http.Error(w, "no such path: "+r.URL.Path, http.StatusNotFound)
		return
	}
	if c.Conn, err = stream.Accept(w, r, stream.AcceptOptions{Subprotocols: []string{stream.Subprotocol}}); err != nil {
		return
	}
	s.run(c)
}

// admit finds the group of a request; nil if its path is unknown.
func (s *Server) admit(r *http.Request) (*conn, error) {
	q := r.URL.Query()
	c := &conn{server: s, auto: q.Get("ack") != "client", left: make(chan struct{}), known: map[*epoch]bool{}, finished: map[*epoch]bool{}}
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	id := ""
	if len(parts) > 1 {
		var err error
		if id, err = url.PathUnescape(parts[1]); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(parts) == 2 && parts[0] == "firehose":
		key := url.Values{"id": {id}, "type": q["type"], "source_id": q["source_id"], "name": q["name"]}.Encode()
		if s.groups[key] == nil {
			g, err := newGroup(q, "")
			if err != nil {
				return nil, err
			}
			s.groups[key] = g
		}
		c.group = s.groups[key]
	case len(parts) == 3 && parts[0] == "apps" && parts[2] == "stream":
		g, err := newGroup(q, id)
		if err != nil {
			return nil, err
		}
		if n, err := strconv.Atoi(q.Get("recent")); err == nil && q.Get("cursor") == "" {
			for _, d := range s.dopplers {
				g.recent(d, n)
			}
		}
		c.group, c.auto = g, true
		c.past = q.Has("recent") || q.Has("since") || q.Has("cursor")
	default:
		return nil, nil
	}
	return c, nil
}

// run lives as long as the connection.
func (s *Server) run(c *conn) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = c.Close(stream.CloseGoingAway, "the test is over")
		return
	}
	s.live[c] = true
	s.conns.Add(2)
	s.wake()
	s.mu.Unlock()
	defer s.conns.Done()
	go func() {
		defer s.conns.Done()
		if c.write() != nil {
			_ = c.Close(stream.CloseInternal, "") // unless it is being closed
		}
	}()
	code, reason := c.read()
	_ = c.Close(code, reason)
	s.change(func() {
		delete(s.live, c)
		c.group.takeBack(func(l *lease) bool { return l.holder == c })
	})
	close(c.left)
}

// read takes acks until the connection ends.
func (c *conn) read() (stream.CloseCode, string) {
	for {
		buf, err := c.Read(context.Background())
		if err != nil {
			return stream.CloseNormal, ""
		}
		msg, err := stream.DecodeControl(buf.Bytes())
		buf.Release()
		if err != nil {
			return stream.CloseBadMessage, err.Error()
		}
		ack := msg.GetAck()
		if ack == nil {
			return stream.CloseBadMessage, "a nozzle sends acks and nothing else"
		}
		c.server.change(func() {
			for _, r := range ack.GetRanges() {
				c.acked(ack.GetDoppler(), ack.GetEpoch(), r.GetFirst(), r.GetLast())
			}
		})
	}
}

func (c *conn) acked(doppler string, epoch, first, last uint64) {
	envelopes, gaps := c.group.ack(doppler, epoch, first, last)
	c.server.acked += envelopes
	c.server.gaps += gaps
}

// write sends batches until the connection ends.
func (c *conn) write() error {
	c.server.mu.Lock()
	heartbeat, spread := c.server.heartbeat, c.server.spread
	c.server.mu.Unlock()
	err := c.send(&streampb.Batch{Hello: &streampb.Hello{
		Version: stream.Version, Server: "nozzletest", HeartbeatMillis: uint32(heartbeat.Milliseconds()), SpreadMillis: uint32(spread.Milliseconds()),
	}}, nil)
	beat := time.NewTimer(heartbeat)
	defer beat.Stop()
	for err == nil {
		changed, send := c.next()
		if send != nil {
			err = send()
			continue
		}
		beat.Reset(heartbeat)
		select {
		case <-changed:
		case <-c.Done():
			return nil
		case <-beat.C:
			if !c.muted() {
				err = c.send(&streampb.Batch{Heartbeat: &streampb.Heartbeat{Timestamp: time.Now().UnixNano()}}, nil)
			}
		}
	}
	return err
}

func (c *conn) muted() bool {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return c.server.silent
}

// next returns what to send now; nil means to wait for a change.
func (c *conn) next() (changed <-chan struct{}, send func() error) {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent || s.closed || !s.live[c] {
		return s.changed, nil
	}
	if len(c.extra) > 0 {
		msg := c.extra[0]
		c.extra = c.extra[1:]
		return nil, func() error { return c.frame(msg) }
	}
	for _, d := range s.dopplers {
		if !c.known[d.epoch] {
			c.known[d.epoch] = true
			b := &streampb.Batch{Position: c.group.position(d)}
			return nil, func() error { return c.send(b, nil) }
		}
	}
	if !c.turn() {
		return s.changed, nil
	}
	if l := c.group.lend(c, s.dopplers, s.batchSize); l != nil {
		b, records := c.batch(l)
		return nil, func() error {
			err := c.send(b, records)
			if err == nil {
				s.change(func() { c.sent(l) })
			}
			return err
		}
	}
	if c.past {
		c.past = false
		b := &streampb.Batch{Watching: []*streampb.Watching{{}}}
		return nil, func() error { return c.send(b, nil) }
	}
	for _, d := range s.dopplers {
		if d.epoch.fin && !c.finished[d.epoch] {
			c.finished[d.epoch] = true
			b := &streampb.Batch{Fins: []*streampb.Fin{{Doppler: d.name, Epoch: d.epoch.number, End: d.epoch.next}}}
			return nil, func() error { return c.send(b, nil) }
		}
	}
	return s.changed, nil
}

// turn tells whether no other member of the group has fewer batches to ack.
func (c *conn) turn() bool {
	holds := map[*conn]int{}
	for _, l := range c.group.leases {
		holds[l.holder]++
	}
	for o := range c.server.live {
		if o != c && o.group == c.group && holds[o] < holds[c] {
			return false
		}
	}
	return true
}

// sent says that a batch is in the nozzle's socket.
func (c *conn) sent(l *lease) {
	c.group.told(l)
	if c.auto && l.holder == c {
		for _, e := range l.entries {
			c.acked(l.doppler, l.epoch.number, e.offset, e.offset)
		}
		for _, gap := range append([]*streampb.Gap(nil), l.gaps...) {
			c.acked(l.doppler, l.epoch.number, gap.GetFrom(), gap.GetFrom())
		}
	}
}

// position is where a group stands with a Doppler.
func (g *group) position(d *Doppler) *streampb.Position {
	low, matched := g.low(d)
	p := &streampb.Position{Doppler: d.name, Epoch: d.epoch.number, First: low, Matched: matched, Next: low}
	if !g.tail {
		p.Low, p.LowMatched = low, matched
	}
	return p
}

// batch encodes a lease: what of it is not acked.
func (c *conn) batch(l *lease) (*streampb.Batch, []byte) {
	var d *Doppler
	for _, o := range c.server.dopplers {
		if o.name == l.doppler {
			d = o
		}
	}
	p := c.group.position(d)
	p.Next = c.group.at(d).offset()
	c.lease++
	b := &streampb.Batch{Position: p, Gaps: append([]*streampb.Gap(nil), l.gaps...)}
	if !c.group.tail {
		b.Lease = &streampb.Lease{Id: c.lease, Redelivered: l.again}
	}
	var records []byte
	var deltas []uint32
	last, contiguous := uint64(0), true
	for i, e := range l.entries {
		if l.acked[i] {
			continue
		}
		if p.Count == 0 {
			p.First, p.Matched = e.offset, l.matched+uint64(i)
		} else {
			deltas = append(deltas, uint32(e.offset-last))
			contiguous = contiguous && e.offset == last+1
		}
		last = e.offset
		p.Count++
		records = envelope.AppendRecord(records, e.env)
	}
	if p.Count == 0 {
		p.First, p.Matched = c.group.at(d).offset(), l.matched
	}
	if !contiguous {
		p.Deltas = deltas
	}
	return b, records
}

func (c *conn) send(b *streampb.Batch, records []byte) error {
	meta, err := stream.AppendBatchMeta(nil, b)
	if err != nil {
		return err
	}
	return c.frame(append(meta, records...))
}

func (c *conn) frame(message []byte) error {
	return c.WriteFrames([][]byte{stream.AppendFrameHeader(nil, len(message)), message}, nil, writeTimeout)
}
