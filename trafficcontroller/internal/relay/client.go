package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Client is one connection to the Firehose.
type Client struct {
	// static
	relay   *Relay
	conn    *stream.Conn
	options Options
	opened  time.Time
	ctx     context.Context // ends with the client; its members' too
	cancel  context.CancelFunc

	wake  chan struct{} // capacity 1: queue or end
	wrote atomic.Int64  // unix nanoseconds

	sent, bytes, gaps atomic.Uint64

	// guarded by mu
	mu      sync.Mutex
	members map[string]*member // by address
	queue   []item
	queued  int // bytes
	ended   bool
	closed  *stream.CloseError // why this side closed it
}

// item is one message on its way to the client.
type item struct {
	buf   *stream.Buffer
	from  *member // nil: of this Traffic Controller
	conn  *stream.Conn
	lease uint64 // 0: nothing to say back
	count uint32
	gaps  int
}

// hello is the first message.
func (c *Client) hello() error {
	b, err := metaBuffer(&streampb.Batch{Hello: &streampb.Hello{
		Version: stream.Version, Server: c.relay.cfg.Name,
		HeartbeatMillis: uint32(c.relay.cfg.Heartbeat.Milliseconds()),
	}})
	if err != nil {
		return err
	}
	c.push(item{buf: b})
	return nil
}

// push queues a message; it owns the buffer.
func (c *Client) push(i item) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		i.buf.Release()
		return
	}
	c.queue = append(c.queue, i)
	c.queued += i.buf.Len()
	c.mu.Unlock()
	c.signal()
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

// remove takes a member out; its end has to be called.
func (c *Client) remove(addr string) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[addr]
	delete(c.members, addr)
	return m
}

// lag is how many envelopes the Dopplers say the client is behind.
func (c *Client) lag() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := uint64(0)
	for _, m := range c.members {
		n += m.lag.Load()
	}
	return n
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
	c.relay.cfg.Pings.Remove(c.conn)
	c.relay.mu.Lock()
	delete(c.relay.clients, c)
	c.relay.mu.Unlock()
	c.finish()
	_ = c.conn.Close(code, reason)
	c.mu.Lock()
	if c.closed != nil {
		err = c.closed
	}
	c.mu.Unlock()
	c.options.Closed(c.Row(), err)
}

// finish ends the members and awaits them.
func (c *Client) finish() {
	c.mu.Lock()
	c.ended = true
	members := c.members
	c.members = map[string]*member{}
	c.mu.Unlock()
	c.cancel()
	c.signal()
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
		msg, err := stream.DecodeControl(buf.Bytes())
		if err != nil {
			buf.Release()
			return &clientError{err.Error()}
		}
		ack := msg.GetAck()
		if ack == nil {
			buf.Release()
			return &clientError{"a Firehose client sends Ack only"}
		}
		c.ack(ack.GetDoppler(), buf.Bytes())
		buf.Release()
	}
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

// maxWrite bounds the bytes handed to the socket at a time.
const maxWrite = 512 << 10

// write sends what is queued until the client ends.
func (c *Client) write() {
	defer c.relay.wg.Done()
	var batch []item
	var bufs [][]byte
	for {
		batch = c.take(batch[:0])
		if len(batch) == 0 {
			select {
			case <-c.wake:
				continue
			case <-c.ctx.Done():
				c.dropQueue()
				return
			}
		}
		bufs = bufs[:0]
		for i := range batch {
			bufs = append(bufs, batch[i].buf.Frame())
		}
		err := c.conn.WriteFrames(bufs, func(bool) {
			for i := range batch {
				batch[i].buf.Release()
			}
		}, c.relay.cfg.StuckTimeout)
		clear(bufs)
		if err != nil {
			c.failed(err)
			<-c.ctx.Done()
			c.dropQueue()
			return
		}
		c.wrote.Store(time.Now().UnixNano())
		c.settle(batch)
		clear(batch)
	}
}

// take moves messages from the queue.
func (c *Client) take(into []item) []item {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size := 0, 0
	for n < len(c.queue) && (n == 0 || size+c.queue[n].buf.Len() <= maxWrite) {
		size += c.queue[n].buf.Len()
		n++
	}
	into = append(into, c.queue[:n]...)
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	c.queued -= size
	c.bytes.Add(uint64(size))
	c.relay.bytes.Add(uint64(size))
	return into
}

func (c *Client) dropQueue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.queue {
		i.buf.Release()
	}
	c.queue = nil
}

// settle tells the Dopplers that their batches are in the client's socket.
func (c *Client) settle(batch []item) {
	for i := range batch {
		it := &batch[i]
		c.sent.Add(uint64(it.count))
		c.relay.sent.Add(uint64(it.count))
		c.gaps.Add(uint64(it.gaps))
		if it.from != nil && it.lease != 0 {
			it.from.written(it)
		}
	}
	for i := range batch {
		if m := batch[i].from; m != nil {
			m.flush()
		}
	}
}

// failed closes the connection of a client that cannot be written to.
func (c *Client) failed(err error) {
	if !errors.Is(err, stream.ErrStuck) {
		c.conn.CloseNow()
		return
	}
	c.relay.slow.Add(1)
	c.mu.Lock()
	waiting := len(c.queue)
	c.mu.Unlock()
	c.closeWith(stream.CloseStuck, fmt.Sprintf("took nothing for %v: %d batches waiting here, %d envelopes behind",
		c.relay.cfg.StuckTimeout, waiting, c.lag()))
}

func (c *Client) closeWith(code stream.CloseCode, reason string) {
	c.mu.Lock()
	if c.closed == nil {
		c.closed = &stream.CloseError{Code: code, Reason: reason}
	}
	c.mu.Unlock()
	_ = c.conn.Close(code, reason)
}

// Row is what a view shows of a client.
type Row struct {
	Subscription string
	Filter       string
	Remote       string
	UserAgent    string
	Opened       time.Time
	Dopplers     int // connected
	Lag          uint64
	LagBytes     int // queued here
	Sent         uint64
	Bytes        uint64
	Gaps         uint64
}

// Row may be called at any time.
func (c *Client) Row() Row {
	row := Row{
		Subscription: c.options.Subscription, Filter: c.options.Query.Encode(), Remote: c.options.Remote,
		UserAgent: c.options.UserAgent, Opened: c.opened, Lag: c.lag(),
		Sent: c.sent.Load(), Bytes: c.bytes.Load(), Gaps: c.gaps.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	row.LagBytes = c.queued
	for _, m := range c.members {
		if m.up.Load() {
			row.Dopplers++
		}
	}
	return row
}
