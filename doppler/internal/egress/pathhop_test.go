package egress

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
)

// pathConn is a client's connection, and what its Traffic Controller keeps for
// it.
type pathConn struct {
	cursor string // the client came with it
	place  *stream.Place
	hops   map[string]*pathHop // by Doppler
	dialed map[string]bool
	order  []string
	out    []*pathMessage // to be written into the client's socket
	socket []*pathMessage
	acks   [][]byte // from the client
}

func (c *pathConn) list() (list []*pathHop) {
	for _, name := range c.order {
		if h := c.hops[name]; h != nil {
			list = append(list, h)
		}
	}
	return list
}

// pathHop is a member's connection between a Traffic Controller and a Doppler.
type pathHop struct {
	conn    *pathConn
	client  *pathClient
	node    *pathNode
	epoch   uint64
	m       *member
	life    *pathLife
	idle    bool
	closed  bool // by the Doppler: nothing more comes
	greeted bool
	down    []*pathMessage
	up      [][]byte
	owed    uint64 // lease to say Sent for
}

// pathMessage is an encoded message and where it comes from.
type pathMessage struct {
	bytes []byte
	hop   *pathHop
	lease uint64
}

func (m *pathMessage) decode(w *pathWorld) (b *streampb.Batch, envelopes []byte) {
	meta, envelopes, err := stream.SplitBatch(m.bytes)
	b = &streampb.Batch{}
	if err == nil {
		err = stream.UnmarshalMeta(meta, b)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return b, envelopes
}

// encode makes a message of a batch and its envelopes.
func (w *pathWorld) encode(b *streampb.Batch, h *pathHop, pieces ...[]byte) *pathMessage {
	msg, err := stream.AppendBatchMeta(nil, b)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range pieces {
		msg = append(msg, p...)
	}
	return &pathMessage{bytes: msg, hop: h, lease: b.GetLease().GetId()}
}

// join makes a hop to a Doppler, as the relay of a Traffic Controller dials: at
// first as the client asks, later from where it stands.
func (w *pathWorld) join(c *pathClient, n *pathNode) bool {
	conn := c.conn
	if n.server == nil || conn.hops[n.name] != nil {
		return false
	}
	if _, err := n.server.count(); err != nil {
		return false // it is stopping
	}
	c.attempts++
	session := stream.Session{ID: fmt.Sprint("client-", c.number), Turn: uint64(c.link)}
	q := url.Values{"shard_id": {"s"}, "session": {session.Attempt(c.attempts).String()}}
	for key, v := range w.selectors {
		q[key] = v
	}
	if c.acking {
		q.Set("ack", "client")
	}
	cursor := conn.cursor
	if conn.dialed[n.name] {
		q.Set("start", "origin")
		cursor = encodeCursor(conn.place)
	}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	asked, err := parseFirehose(q)
	if err != nil {
		w.fault("a query is refused: %v", err)
		return false
	}
	heard := asked
	if w.plant.query != nil {
		w.plant.query(w, q)
		if heard, err = parseFirehose(q); err != nil {
			w.fault("a query is refused: %v", err)
			return false
		}
	}
	h := &pathHop{conn: conn, client: c, node: n, epoch: n.epoch}
	h.m = &member{seat: seat{server: n.server, wake: newWaker(), lose: func() {}}}
	if !n.server.join(&h.m.seat, heard) {
		w.fault("a reader may not come back over another connection")
		return false
	}
	if !conn.dialed[n.name] {
		conn.order = append(conn.order, n.name)
	}
	conn.hops[n.name], conn.dialed[n.name] = h, true
	w.does("client %d joins %s/%d with %v, origin %v", c.number, n.name, n.epoch, asked.cursor, asked.origin)
	w.checkJoin(h, asked)
	h.down = append(h.down, w.encode(h.m.greeting(), h))
	return true
}

// turn is a round of the Doppler's writing loop.
func (w *pathWorld) turn(h *pathHop) bool {
	if h == nil || h.closed || h.idle && !h.woken() && !h.superseded() {
		return false
	}
	t := h.m.next()
	if w.plant.turn != nil {
		w.plant.turn(w, h, &t)
	}
	switch {
	case t.left:
		w.hangUp(h) // its reader has another seat
	case t.status == reader.Granted:
		w.grant(h, &t.grant)
	case h.node.server.finished.Load():
		if t.fin {
			h.down = append(h.down, w.encode(w.fin(h.node), h))
		} else if h.node.orderly {
			w.fault("%s/%d leaves without a fin", h.node.name, h.epoch)
		}
		w.hangUp(h)
	case t.waits:
		h.idle = true
	}
	return true
}

// woken takes the signal to go on, if there is one.
func (h *pathHop) woken() bool {
	select {
	case <-h.m.wake:
		h.idle = false
		h.m.group.idle.Add(-1)
		return true
	default:
		return false
	}
}

// superseded tells whether the reader has another seat.
func (h *pathHop) superseded() bool { return h.m.group.sessions[h.m.state] == nil }

func (w *pathWorld) grant(h *pathHop, g *reader.Grant) {
	b := &streampb.Batch{}
	h.node.server.describe(b, g)
	w.does("%s/%d grants lease %d to client %d: %d from %d, again %v, gaps %v",
		h.node.name, h.epoch, g.Lease, h.client.number, g.Count, g.First, g.Redelivered, b.Gaps)
	w.checkGrant(h, b)
	pieces := [][]byte{slices.Concat(g.Pieces...)}
	g.Release()
	msg := w.encode(b, h, pieces...)
	if w.plant.batch != nil {
		w.plant.batch(w, h, b)
		msg = w.encode(b, h, pieces...)
	}
	h.down = append(h.down, msg)
	if w.plant.twice && w.chance(8) {
		h.down = append(h.down, msg)
	}
}

// hangUp is the Doppler ending a connection: what is on its way arrives.
func (w *pathWorld) hangUp(h *pathHop) {
	if h.closed {
		return
	}
	h.closed = true
	h.m.leave(stream.CloseError{Code: stream.CloseAbnormal})
	h.node.server.sessions.Done()
	if h.idle {
		h.m.group.idle.Add(-1)
	}
}

// relay is a Traffic Controller taking a message of a Doppler.
func (w *pathWorld) relay(h *pathHop) bool {
	if h == nil {
		return false
	}
	if len(h.down) == 0 {
		if h.closed {
			delete(h.conn.hops, h.node.name)
		}
		return h.closed
	}
	msg := h.down[0]
	h.down = h.down[1:]
	b, _ := msg.decode(w)
	if p := b.GetPosition(); p.GetDoppler() != "" {
		h.conn.place.Told(p, 1)
	}
	for _, f := range b.GetFins() {
		h.conn.place.Finish(f.GetDoppler(), f.GetEpoch())
	}
	w.checkCursor(h.conn.place, "a Traffic Controller")
	if b.GetHello() != nil {
		h.greeted = true
		msg = w.encode(&streampb.Batch{Position: b.GetPosition()}, h)
	}
	h.conn.out = append(h.conn.out, msg)
	return true
}

// writeOut puts the next message into the client's socket, and may say so.
func (w *pathWorld) writeOut(c *pathConn) (said bool) {
	if c == nil {
		return false
	}
	for _, h := range c.list() {
		if h.owed != 0 && (len(c.out) == 0 || w.chance(3)) && !h.closed {
			h.up = append(h.up, stream.AppendSent(nil, h.owed))
			h.owed, said = 0, true
		}
	}
	if len(c.out) == 0 {
		return said
	}
	msg := c.out[0]
	c.out = c.out[1:]
	c.socket = append(c.socket, msg)
	b, _ := msg.decode(w)
	switch d := (&stream.Delivery{Position: b.GetPosition(), Gaps: b.GetGaps()}); {
	case !msg.hop.client.acking:
		w.taken(msg.hop.life, d, 0, d.Len()) // there is nobody else to answer for it
	case d.Len() == 0 || b.GetLease().GetRedelivered():
		w.lossTold(msg.hop.life, d.Gaps) // no ack can tell that it was received
	}
	if msg.lease != 0 {
		msg.hop.owed = msg.lease
	}
	return true
}

// listen is a Doppler taking what a Traffic Controller says.
func (w *pathWorld) listen(h *pathHop) bool {
	if h == nil {
		return false
	}
	w.forward(h)
	if h.closed || len(h.up) == 0 {
		return false
	}
	msg := h.up[0]
	h.up = h.up[1:]
	control, err := stream.DecodeControl(msg)
	if err == nil && w.plant.control != nil && w.plant.control(w, h, control) {
		return true
	}
	if err == nil {
		w.checkControl(h, control)
		err = h.m.control(control)
	}
	if err != nil {
		w.fault("a Doppler refuses a message: %v", err)
	}
	w.does("%s/%d hears of client %d: %v", h.node.name, h.epoch, h.client.number, control)
	w.drain(h.node, false)
	return true
}

// forward passes the client's next acks on to the member of their Doppler.
func (w *pathWorld) forward(h *pathHop) {
	if len(h.conn.acks) == 0 {
		return
	}
	msg := h.conn.acks[0]
	h.conn.acks = h.conn.acks[1:]
	control, err := stream.DecodeControl(msg)
	if err != nil {
		w.fault("a client says what nobody understands: %v", err)
		return
	}
	to := h.conn.hops[control.GetAck().GetDoppler()]
	if to != nil && to.greeted && !to.closed {
		to.up = append(to.up, msg)
	}
}

// cutHop breaks a hop: some of what is on its way arrives, on either side. The
// Doppler may not notice.
func (w *pathWorld) cutHop(h *pathHop) {
	if h == nil {
		return
	}
	w.does("the hop of client %d to %s/%d breaks", h.client.number, h.node.name, h.epoch)
	for w.chance(2) && w.listen(h) {
	}
	for w.chance(2) && len(h.down) > 0 {
		w.relay(h)
	}
	delete(h.conn.hops, h.node.name)
	if !h.closed && w.chance(3) {
		w.ghosts = append(w.ghosts, h)
		return
	}
	w.hangUp(h)
}

// notice lets Dopplers notice the connections that are no more.
func (w *pathWorld) notice() {
	for _, h := range w.ghosts {
		w.hangUp(h)
	}
	w.ghosts = nil
}
