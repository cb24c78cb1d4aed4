package egress

import (
	"slices"

	"github.com/a1ea6966/loggregator/api/stream"
)

// pathClient is a client of the subscription, over its connections and lives.
type pathClient struct {
	number int
	acking bool
	lazy   bool          // acks nothing, until the end
	place  *stream.Place // of what is acked, or consumed
	read   *stream.Place // of what is received; nil for one that acks
	link   int
	conn   *pathConn
	kept   string // cursor that outlives it

	attempts uint64 // of its Traffic Controller to reach Dopplers
	unacked  []*pathDelivery
}

// pathDelivery is a batch that a client has received.
type pathDelivery struct {
	stream.Delivery
	life *pathLife
}

func (w *pathWorld) newClient(number int) *pathClient {
	c := &pathClient{number: number, acking: w.rng.IntN(3) > 0, lazy: w.chance(6)}
	c.reset(w)
	return c
}

// reset begins the client's life, where its cursor says.
func (c *pathClient) reset(w *pathWorld) {
	from, err := decodeCursor(c.kept)
	if err != nil {
		w.fault("a client's cursor is refused: %v", err)
	}
	c.place, c.read, c.unacked = stream.NewPlace(from, false), nil, nil
	if !c.acking {
		c.read = stream.NewPlace(from, false)
	}
}

// dial connects the client, or its Traffic Controller to one more Doppler.
func (w *pathWorld) dial(c *pathClient) bool {
	if c.conn != nil {
		for i, first := range w.rng.Perm(len(w.nodes)) {
			if w.join(c, w.nodes[first]) || i == len(w.nodes) {
				return true
			}
		}
		return false
	}
	from := c.place
	if c.read != nil {
		from = c.read
	}
	w.checkCursor(from, "a client")
	cursor := encodeCursor(from)
	decoded, err := decodeCursor(cursor)
	if err != nil {
		w.fault("a client's cursor is refused: %v", err)
	}
	c.link++
	c.conn = &pathConn{
		cursor: cursor, place: stream.NewPlace(decoded, false),
		hops: map[string]*pathHop{}, dialed: map[string]bool{},
	}
	w.does("client %d connects with %v", c.number, decoded)
	c.place.Reconnected()
	w.flush(c)
	return true
}

// receive takes the next message out of the client's socket.
func (w *pathWorld) receive(c *pathClient) bool {
	if c.conn == nil || len(c.conn.socket) == 0 {
		return false
	}
	msg := c.conn.socket[0]
	c.conn.socket = c.conn.socket[1:]
	b, envelopes := msg.decode(w)
	w.checkReceived(msg, b, envelopes)
	d := &pathDelivery{life: msg.hop.life, Delivery: stream.Delivery{
		Position: b.GetPosition(), Gaps: b.GetGaps(), Redelivered: b.GetLease().GetRedelivered(),
	}}
	if c.read != nil {
		received := d.Delivery
		c.read.Receive(&received, c.link)
		c.read.Consume(&received)
	}
	switch {
	case len(envelopes) > 0 || len(d.Gaps) > 0:
		c.consume()
		c.place.Receive(&d.Delivery, c.link)
		c.unacked = append(c.unacked, d)
	case d.Position != nil:
		c.place.Told(d.Position, c.link)
	}
	for _, f := range b.GetFins() {
		c.place.Finish(f.GetDoppler(), f.GetEpoch())
		if c.read != nil {
			c.read.Finish(f.GetDoppler(), f.GetEpoch())
		}
	}
	w.checkCursor(c.place, "a client")
	return true
}

// consume is a client that does not ack coming for more.
func (c *pathClient) consume() {
	if c.acking {
		return
	}
	for _, d := range c.unacked {
		c.place.Consume(&d.Delivery)
	}
	c.unacked = nil
}

// ack takes responsibility for some of what the client has.
func (w *pathWorld) ack(c *pathClient) {
	if !c.acking || c.lazy || len(c.unacked) == 0 {
		return
	}
	i := 0
	if w.chance(3) {
		i = w.rng.IntN(len(c.unacked))
	}
	d := c.unacked[i]
	from, to := 0, d.Len()
	if to > 1 && w.chance(3) {
		from = w.rng.IntN(to)
		to = from + 1 + w.rng.IntN(to-from)
	}
	if w.ackRange(c, d, from, to) {
		c.unacked = slices.Delete(c.unacked, i, i+1)
	}
	if !w.chance(4) {
		w.flush(c)
	}
	w.checkCursor(c.place, "a client")
}

func (w *pathWorld) ackRange(c *pathClient, d *pathDelivery, from, to int) (settled bool) {
	w.does("client %d acks %d to %d of %v, %v", c.number, from, to, d.Position, d.Gaps)
	w.taken(d.life, &d.Delivery, from, to)
	return c.place.Ack(&d.Delivery, from, to)
}

// ackAll acks everything.
func (w *pathWorld) ackAll(c *pathClient) bool {
	if !c.acking || len(c.unacked) == 0 {
		return false
	}
	for _, d := range c.unacked {
		w.ackRange(c, d, 0, d.Len())
	}
	c.unacked = nil
	w.flush(c)
	return true
}

// flush sends what is to be told.
func (w *pathWorld) flush(c *pathClient) {
	if c.conn == nil || !c.acking {
		return
	}
	for _, a := range c.place.TakeAcks() {
		c.conn.acks = append(c.conn.acks, stream.AppendAck(nil, a.Doppler, a.Epoch, a.Ranges...))
	}
}

// keep stores the client's cursor.
func (w *pathWorld) keep(c *pathClient) {
	w.checkCursor(c.place, "a client")
	c.kept = encodeCursor(c.place)
}

// cutClient breaks the client's connection, as its Traffic Controller's end does.
func (w *pathWorld) cutClient(c *pathClient) {
	if c.conn == nil {
		return
	}
	w.does("client %d is cut off", c.number)
	for w.chance(2) && w.writeOut(c.conn) {
	}
	for _, h := range c.conn.list() {
		w.cutHop(h)
	}
	for w.chance(2) && w.receive(c) {
	}
	c.conn = nil
}

// kill ends a client, and starts it again with the cursor that was kept.
func (w *pathWorld) kill(c *pathClient) {
	w.cutClient(c)
	w.does("client %d is killed", c.number)
	if w.plant.kept != nil {
		c.kept = w.plant.kept(w, c.kept)
	}
	c.reset(w)
}
