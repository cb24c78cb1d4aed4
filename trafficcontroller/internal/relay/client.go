package relay

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// Client is one connection to the Firehose.
type Client struct {
	// static
	relay   *Relay
	conn    Conn
	options Options
	opened  time.Time
	ctx     context.Context // ends with the client; its members' too
	cancel  context.CancelFunc

	wake  chan struct{} // capacity 1: queue or end
	wrote atomic.Int64  // unix nanoseconds
	heard atomic.Uint64 // heartbeats of Dopplers
	// attempts to dial Dopplers, of all members: one may follow another at the same
	// Doppler, when that has moved, and must be known there as the later one.
	attempts atomic.Uint64

	sent, bytes, gaps, missed atomic.Uint64

	written sync.WaitGroup // of the writer
	due     *time.Timer    // when what is owed is to be paid

	// guarded by writing, which is taken before mu
	writing sync.Mutex
	owing   []*member // that owe their Doppler something
	bufs    [][]byte
	batch   []item            // being written
	size    int               // bytes of batch
	rest    *stream.Unwritten // of batch: the writer's to finish
	fault   error             // nothing can be written any more

	// guarded by mu
	mu      sync.Mutex
	members map[string]*member   // by address
	place   *stream.Place        // in each Doppler, by its name: it may come back at another address
	lost    map[string]time.Time // Dopplers that are gone, and when to say so
	queue   []item
	queued  int // bytes
	// access is the answer to the newest token. One that waits says more than
	// those before it, so there is never more than one.
	access *streampb.Access
	ended  bool
	closed *stream.CloseError // why this side closed it
	taken  waiting            // what is being written
	watch  watch
}

// item is one message on its way to the client.
type item struct {
	buf    *stream.Buffer
	from   *member // nil: of this Traffic Controller
	conn   *stream.Conn
	size   int
	window int
	lease  uint64 // 0: nothing to say back
	count  uint32
	gaps   int
	missed uint64           // envelopes in gaps
	at     int64            // when it came, by the relay's clock
	access *streampb.Access // that buf says, if it does
}

// hello is the first message.
func (c *Client) hello(clients int) error {
	b, err := metaBuffer(&streampb.Batch{Hello: &streampb.Hello{
		Version: stream.Version, Server: c.relay.cfg.Name,
		HeartbeatMillis: uint32(c.relay.cfg.Heartbeat.Milliseconds()), SpreadMillis: stream.SpreadMillis(clients),
	}})
	if err != nil {
		return err
	}
	c.push(item{buf: b})
	return nil
}

// Tell says how long the client's token is good for. It does not wait, and says
// nothing to a client of another framing. What was told before and waits for the
// socket is forgotten: clients may send many tokens. a must not be changed any
// more.
func (c *Client) Tell(a *streampb.Access) {
	if c.options.Framing != nil {
		return
	}
	c.mu.Lock()
	if !c.ended {
		c.access = a
	}
	c.mu.Unlock()
	c.flush()
}

// push queues a message; it owns the buffer. It does not wait.
func (c *Client) push(i item) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		i.buf.Release()
		return
	}
	i.at = c.relay.clock.Load()
	c.queue = append(c.queue, i)
	c.queued += i.buf.Len()
	c.mu.Unlock()
	c.flush()
}

// flush writes here and now what the socket takes at once: to wake the writer
// would cost more.
func (c *Client) flush() {
	for c.waits() && c.writing.TryLock() {
		ok := c.tryWrite()
		c.writing.Unlock()
		if !ok {
			c.signal()
			return
		}
	}
}

// waits tells whether there is something to write.
func (c *Client) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return (len(c.queue) > 0 || c.access != nil) && !c.ended
}

func (c *Client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// add starts a member. late says that the client was there before the Doppler
// was found.
func (c *Client) add(addr string, late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.members[addr] != nil {
		return
	}
	m := newMember(c, addr, late)
	c.members[addr] = m
	go m.run()
}

// remove ends the member of a Doppler that is gone. Should it not come back,
// at another address, the client is told by until.
func (c *Client) remove(addr string, until time.Time) {
	c.mu.Lock()
	m := c.members[addr]
	delete(c.members, addr)
	c.mu.Unlock()
	if m == nil {
		return
	}
	doppler := m.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.place.Expects(doppler) && !c.reads(doppler) {
		c.lost[doppler] = until
	}
}

// reads tells whether a member is connected to a Doppler. mu is held.
func (c *Client) reads(doppler string) bool {
	for _, m := range c.members {
		if m.connTo(doppler) != nil {
			return true
		}
	}
	return false
}

// found says that a Doppler has said hello. What it cannot give any more it
// tells itself, for it is told where the client stands.
func (c *Client) found(doppler string) {
	c.mu.Lock()
	delete(c.lost, doppler)
	c.mu.Unlock()
}

// giveUp tells the client which Dopplers have not come back.
func (c *Client) giveUp(now time.Time) {
	c.mu.Lock()
	var gaps []*streampb.Gap
	for doppler, until := range c.lost {
		if now.Before(until) {
			continue
		}
		delete(c.lost, doppler)
		gaps = append(gaps, &streampb.Gap{
			Doppler: doppler, Epoch: c.place.LoseDoppler(doppler),
			Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST,
		})
	}
	c.mu.Unlock()
	if len(gaps) == 0 {
		return
	}
	if f := c.options.Framing; f != nil {
		told := build(1024, func(dst []byte) []byte { return f.Encoder()(dst, gaps, nil) })
		c.push(item{buf: told, gaps: len(gaps)})
		return
	}
	if b, err := metaBuffer(&streampb.Batch{Gaps: gaps}); err == nil {
		c.push(item{buf: b, gaps: len(gaps)})
	}
}

// oneLink is the connection that Dopplers are heard of on, whichever it is: what
// a group says of its low mark stays true, for there is no ack here to compare
// with it.
const oneLink = 1

// note keeps where the client stands.
func (c *Client) note(b *streampb.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := b.GetPosition(); p.GetDoppler() != "" {
		c.place.Told(p, oneLink)
	}
	for _, f := range b.GetFins() {
		c.place.Finish(f.GetDoppler(), f.GetEpoch())
	}
}

// cursor is where the client stands, as a string; empty when nothing is known.
func (c *Client) cursor() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	cursor := c.place.Cursor()
	if len(cursor.GetEntries()) == 0 {
		return ""
	}
	return stream.EncodeCursor(cursor)
}

// read takes what the client says until the connection ends.
func (c *Client) read() {
	defer c.relay.wg.Done()
	err := c.readLoop()
	code, reason := stream.CloseNormal, ""
	var bad *clientError
	if errors.As(err, &bad) {
		code, reason = stream.CloseBadMessage, bad.Error()
	}
	c.relay.mu.Lock()
	delete(c.relay.clients, c)
	c.relay.mu.Unlock()
	c.mu.Lock()
	l, _ := c.behind(time.Now())
	c.end(slow.NotCut, l)
	c.mu.Unlock()
	c.finish()
	_ = c.conn.Close(code, reason)
	c.mu.Lock()
	if c.closed != nil {
		err = c.closed
	}
	c.mu.Unlock()
	c.options.Closed(c.Row(), err)
}

// finish lets the writer say what it owes, ends the members and awaits them.
func (c *Client) finish() {
	c.mu.Lock()
	c.ended = true
	members := c.members
	c.members = map[string]*member{}
	c.mu.Unlock()
	c.signal()
	c.written.Wait()
	c.cancel()
	for _, m := range members {
		<-m.done
	}
}

// clientError is what a client did wrong.
type clientError struct{ what string }

func (e *clientError) Error() string { return e.what }

func (c *Client) readLoop() error {
	for {
		buf, err := c.conn.Read(context.Background())
		if err != nil {
			return err
		}
		if c.options.Framing != nil {
			buf.Release()
			continue
		}
		msg, err := stream.DecodeControl(buf.Bytes())
		if err != nil {
			buf.Release()
			return &clientError{err.Error()}
		}
		err = c.control(msg, buf.Bytes())
		buf.Release()
		if err != nil {
			return err
		}
	}
}

// control does what the client says in msg, of which raw is the encoding.
func (c *Client) control(msg *streampb.Control, raw []byte) error {
	switch m := msg.GetMessage().(type) {
	case *streampb.Control_Ack:
		c.ack(m.Ack.GetDoppler(), raw)
	case *streampb.Control_Token:
		if c.options.Token != nil {
			c.options.Token(c, m.Token.GetToken())
		}
	default:
		return &clientError{"a Firehose client sends Ack and Token only"}
	}
	return nil
}

// ack passes an Ack on to the member of its Doppler. Without one it is lost,
// and the Doppler hands the envelopes out again.
func (c *Client) ack(doppler string, msg []byte) {
	c.mu.Lock()
	var conn *stream.Conn
	for _, m := range c.members {
		if conn = m.connTo(doppler); conn != nil {
			break
		}
	}
	c.mu.Unlock()
	if conn != nil {
		if err := conn.Send(c.ctx, msg); err != nil {
			conn.CloseNow()
		}
	}
}

const (
	maxWrite = 256 << 10 // bytes handed to the socket at a time
	// payAfter is how long a Sent may wait for more of its kind.
	payAfter = 10 * time.Millisecond
)

// tryWrite writes what is queued as long as that needs no waiting. It reports
// false when the writer has to go on. writing is held.
func (c *Client) tryWrite() bool {
	if c.rest != nil || c.fault != nil {
		return false
	}
	for {
		var ended bool
		if c.batch, ended = c.take(c.batch[:0]); ended {
			return false
		}
		if len(c.batch) == 0 {
			return true
		}
		c.gather()
		rest, ok, err := c.tryFrames()
		if !ok {
			c.putBack()
			return false
		}
		c.release()
		if c.rest, c.fault = rest, err; rest != nil || err != nil {
			return false
		}
		c.settle()
	}
}

// tryFrames hands the socket what it takes of the batch. A batch may be empty:
// not everything has an old form.
func (c *Client) tryFrames() (rest *stream.Unwritten, ok bool, err error) {
	if len(c.bufs) == 0 {
		return nil, true, nil
	}
	return c.conn.TryWriteFrames(c.bufs)
}

// write finishes what push could not, and pays what is owed, until the client
// ends.
func (c *Client) write() {
	defer c.written.Done()
	defer c.due.Stop()
	for {
		if ended := c.writeAll(); ended {
			return
		}
		if c.waits() {
			continue // came while this goroutine wrote
		}
		select {
		case <-c.wake:
		case <-c.due.C:
			c.writing.Lock()
			c.pay()
			c.writing.Unlock()
		}
	}
}

// writeAll writes until nothing is queued; it waits for the socket.
func (c *Client) writeAll() (ended bool) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.rest != nil {
		c.fault = c.rest.Finish(c.stuckTimeout())
		if c.rest = nil; c.fault == nil {
			c.settle()
		}
	}
	for {
		if c.fault != nil {
			clear(c.batch)
			c.failed(c.fault)
			return true
		}
		if c.batch, ended = c.take(c.batch[:0]); ended {
			c.pay()
			return true
		}
		if len(c.batch) == 0 {
			return false
		}
		c.writeOut()
	}
}

// gather lists the frames of the batch.
func (c *Client) gather() {
	c.bufs, c.size = c.bufs[:0], 0
	for i := range c.batch {
		b := c.batch[i].buf.Bytes()
		if c.options.Framing == nil {
			b = c.batch[i].buf.Frame()
		}
		if len(b) > 0 {
			c.bufs = append(c.bufs, b)
			c.size += len(b)
		}
	}
}

// release lets go of the buffers of the batch.
func (c *Client) release() {
	for i := range c.batch {
		c.batch[i].buf.Release()
	}
	clear(c.bufs)
}

// writeOut hands the batch to the socket.
func (c *Client) writeOut() {
	c.gather()
	if len(c.bufs) == 0 {
		c.release()
		c.settle()
		return
	}
	c.fault = c.conn.WriteFrames(c.bufs, func(bool) { c.release() }, c.stuckTimeout())
	if c.fault == nil {
		c.settle()
	}
}

// take moves messages from the queue, and then the answer that waits: hello comes
// before it. When the client has ended, it drops them.
func (c *Client) take(into []item) (_ []item, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		c.dropQueue()
		return into, true
	}
	n, size := 0, 0
	c.taken = waiting{}
	for n < len(c.queue) && (n == 0 || size+c.queue[n].buf.Len() <= maxWrite) {
		size += c.queue[n].buf.Len()
		c.taken.add(&c.queue[n])
		n++
	}
	into = append(into, c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	c.queued -= size
	if c.access != nil {
		if b, err := metaBuffer(&streampb.Batch{Access: c.access}); err == nil {
			into = append(into, item{buf: b, access: c.access})
		}
		c.access = nil
	}
	return into, false
}

// putBack makes the batch the head of the queue again: it was not written. An
// answer waits again, unless there is a newer one.
func (c *Client) putBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = waiting{}
	items := c.batch
	if last := len(items) - 1; items[last].access != nil {
		if c.access == nil {
			c.access = items[last].access
		}
		items[last].buf.Release()
		items = items[:last]
	}
	c.queue = slices.Insert(c.queue, 0, items...)
	for i := range items {
		c.queued += items[i].buf.Len()
	}
	clear(c.batch)
	c.batch = c.batch[:0]
}

// dropQueue lets go of what will not be sent. mu is held.
func (c *Client) dropQueue() {
	for _, i := range c.queue {
		i.buf.Release()
	}
	c.queue, c.queued, c.access = nil, 0, nil
}

// settle notes that the batch is in the client's socket; its
// Dopplers have to be told.
func (c *Client) settle() {
	c.bytes.Add(uint64(c.size))
	c.relay.bytes.Add(uint64(c.size))
	c.wrote.Store(time.Now().UnixNano())
	owed := len(c.owing) > 0
	for i := range c.batch {
		it := &c.batch[i]
		c.sent.Add(uint64(it.count))
		c.relay.sent.Add(uint64(it.count))
		c.gaps.Add(uint64(it.gaps))
		c.missed.Add(it.missed)
		c.relay.missed.Add(it.missed)
		if m := it.from; m != nil && it.lease != 0 {
			if m.debt.lease == 0 {
				c.owing = append(c.owing, m)
			}
			m.written(it)
		}
	}
	clear(c.batch)
	c.batch = c.batch[:0]
	if !owed && len(c.owing) > 0 {
		c.due.Reset(payAfter)
	}
}

// pay tells every Doppler what it is owed.
func (c *Client) pay() {
	for _, m := range c.owing {
		m.pay()
	}
	clear(c.owing)
	c.owing = c.owing[:0]
}

// failed closes the connection of a client that cannot be written to. What
// waits for it goes back to the Dopplers.
func (c *Client) failed(err error) {
	stuck := errors.Is(err, stream.ErrStuck)
	c.mu.Lock()
	l, _ := c.behind(time.Now())
	mine := stuck && c.end(slow.Stuck, l)
	c.end(slow.NotCut, l)
	c.mu.Unlock()
	switch {
	case mine:
		c.closeWith(c.slowCode(), slow.StuckReason(c.stuckTimeout(), l))
	case !stuck && !errors.Is(err, net.ErrClosed): // else somebody closes it with a code
		c.conn.CloseNow()
	}
}

func (c *Client) closeWith(code stream.CloseCode, reason string) {
	c.mu.Lock()
	if c.closed == nil {
		c.closed = &stream.CloseError{Code: code, Reason: reason}
	}
	c.mu.Unlock()
	_ = c.conn.Close(code, reason)
}
