package egress

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// call is a member of a group that reads over gRPC. What it is granted counts
// as taken when gRPC has taken it, which is when the client's flow control
// lets it.
type call struct {
	seat
	ctx     context.Context
	calls   grpc.ServerStream
	framing callFraming

	cut   chan struct{} // closed to end the call from outside, with why
	once  sync.Once
	why   error
	since atomic.Int64 // when the present write began, in unix nanoseconds; 0: none

	blocking *time.Timer // says so when a write takes long

	// guarded by group.mu
	writing bool
	blocked bool
	judge   slow.Judge
	looked  time.Time
}

// callFraming is how a kind of call is talked to. Each call has its own, which
// one goroutine uses.
type callFraming interface {
	// Take takes gaps, and records that come after them: runs of an
	// EnvelopeBatch, good for the time of the call.
	Take(gaps []*streampb.Gap, records [][]byte)
	// Send sends what was taken, in as many messages as need be, until send
	// returns an error.
	Send(send func(*callMessage) error) error
}

// slowWrite is how long a call's write may take until its peers go on without
// it.
const slowWrite = 2 * time.Millisecond

// serveCall makes a call a member of its group and serves it to its end.
func (s *Server) serveCall(calls grpc.ServerStream, q firehoseQuery, method string, framing callFraming) error {
	id, err := s.count()
	switch {
	case errors.Is(err, errStopping):
		s.refused[Stopping].Add(1)
		return status.Error(codes.Unavailable, err.Error())
	case err != nil:
		s.refused[OverLimit].Add(1)
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	c := &call{
		seat: seat{server: s, wake: newWaker(), view: callView(calls.Context(), method, strconv.FormatUint(id, 10))},
		ctx:  calls.Context(), calls: calls, framing: framing, cut: make(chan struct{}),
	}
	c.stop = func() { c.end(status.Error(codes.Unavailable, errStopping.Error())) }
	c.tick = c.look
	c.blocking = time.AfterFunc(time.Hour, c.isBlocked)
	c.blocking.Stop()
	s.join(&c.seat, q)
	if s.stopped.Load() {
		c.stop()
	}
	_ = calls.SendHeader(nil) // tells the client that it is a member now
	return c.serve()
}

// callView is what is known of a call from its start.
func callView(ctx context.Context, method, id string) view {
	v := view{id: id, framing: method, since: time.Now()}
	if p, ok := peer.FromContext(ctx); ok {
		v.remote = p.Addr.String()
	}
	if agent := metadata.ValueFromIncomingContext(ctx, "user-agent"); len(agent) > 0 {
		v.userAgent = agent[0]
	}
	return v
}

// serve returns how the call ended. A goroutine that writes to a client which
// takes nothing can only be freed by leaving the handler, hence the two.
func (c *call) serve() error {
	written := make(chan error, 1)
	go func() {
		defer c.server.sessions.Done()
		err := c.write()
		select {
		case <-c.cut:
			err = c.why
		default:
		}
		c.leave(closeOf(err))
		written <- err
	}()
	select {
	case err := <-written:
		return err
	case <-c.cut:
		return c.why
	}
}

// closeOf is how a call ended.
func closeOf(err error) stream.CloseError {
	st, _ := status.FromError(err)
	if st.Code() == codes.OK {
		return stream.CloseError{}
	}
	return stream.CloseError{Code: stream.CloseCode(st.Code()), Reason: st.Code().String() + ": " + st.Message()}
}

// end ends the call from outside.
func (c *call) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.cut)
	})
}

// look ends the call when its present write has taken too long, or when it is
// slow, if it may not be. group.mu is held.
func (c *call) look(now time.Time) {
	limit, policy := c.server.cfg.StuckTimeout, c.server.cfg.SlowCall
	if since := c.since.Load(); since != 0 && now.Sub(time.Unix(0, since)) > limit {
		c.cutFor(slow.Stuck, slow.StuckReason(limit, c.lagNow(now)))
	}
	if now.Sub(c.looked) < c.server.cfg.Heartbeat || now.Sub(c.view.since) < policy.Age {
		return
	}
	c.looked = now
	lag := c.lagNow(now)
	if !c.writing { // it is not this one that the group waits for
		lag = slow.Lag{Dropped: lag.Dropped}
	}
	if c.slow = c.judge.Look(policy, lag) == slow.Slow; c.slow && policy.Cut {
		c.cutFor(slow.Lagging, slow.Reason(lag))
	}
}

// lagNow is how far its group is behind. group.mu is held.
func (c *call) lagNow(now time.Time) slow.Lag {
	return c.group.lagLocked(now, c.server, c.server.meanBytes(), c.group.state.Account())
}

// cutFor ends the call of a slow reader, once.
func (c *call) cutFor(why slow.Cut, reason string) {
	select {
	case <-c.cut:
	default:
		c.server.cuts[framingOf(c.view.framing)][why].Add(1)
		c.end(status.Error(codes.ResourceExhausted, reason))
	}
}

// write sends what the group grants until the call is over.
func (c *call) write() error {
	var pace pacer
	for {
		t := c.next()
		var err error
		switch {
		case t.status == reader.Granted:
			c.take(&t.grant)
			err = c.send(&t.grant)
			pace.last = time.Now()
		case c.server.finished.Load():
			return c.goodbye(t.fin)
		case t.waits:
			err = c.idleUntil(&pace)
		}
		if err != nil {
			return err
		}
	}
}

// goodbye ends the call of a stopping Doppler: well, if it has everything.
func (c *call) goodbye(fin bool) error {
	if fin {
		return nil
	}
	return status.Error(codes.Unavailable, errStopping.Error())
}

func (c *call) idleUntil(pace *pacer) error {
	defer c.group.idle.Add(-1)
	select {
	case <-c.wake:
	case <-c.ctx.Done():
		return status.FromContextError(c.ctx.Err()).Err()
	}
	c.pause(pace, c.ctx.Done())
	return nil
}

// take takes a grant out of the ring, and lets go of that.
func (c *call) take(grant *reader.Grant) {
	defer grant.Release()
	c.framing.Take(c.server.gaps(grant.Gaps), grant.Pieces)
}

// send hands a grant to gRPC. Should it not take it soon, the group's other
// members go on.
func (c *call) send(grant *reader.Grant) error {
	c.group.mu.Lock()
	c.writing = true
	c.group.mu.Unlock()
	c.blocking.Reset(slowWrite)
	err := c.framing.Send(c.sendOne)
	c.since.Store(0)
	c.blocking.Stop()
	g := c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	c.writing = false
	if c.blocked {
		c.blocked = false
		g.signal(g.state.SetBlocked(c.state, false))
	}
	if err != nil {
		return err
	}
	g.signal(g.state.Sent(c.state, grant.Lease))
	c.server.sent[framingOf(c.view.framing)].Add(uint64(grant.Count))
	return nil
}

// sendOne sends a message, and waits until gRPC takes it.
func (c *call) sendOne(m *callMessage) error {
	c.since.Store(time.Now().UnixNano())
	return c.calls.SendMsg(m)
}

// isBlocked lets the group's other members go on while the call's write lasts.
func (c *call) isBlocked() {
	g := c.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.writing && !c.blocked {
		c.blocked = true
		g.signal(g.state.SetBlocked(c.state, true))
	}
}

// badCall refuses a call for what it asks for.
func (s *Server) badCall(format string, args ...any) error {
	s.refused[BadRequest].Add(1)
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// callMessage is an encoded message. The codec of the listener sends it as it
// is.
type callMessage struct{ bytes []byte }

// Encoded gives the bytes away; gRPC frees them when they are on the wire.
func (m *callMessage) Encoded() mem.BufferSlice {
	b := m.bytes
	m.bytes = nil
	return mem.BufferSlice{mem.NewBuffer(&b, messages)}
}

// messages are the buffers of messages, to be used again.
var messages mem.BufferPool = &messagePool{}

type messagePool struct{ pool sync.Pool }

// keptMessage is the largest buffer that is kept.
const keptMessage = 2 << 20

// Get returns an empty buffer of whatever capacity there is.
func (p *messagePool) Get(int) *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

// Put takes a buffer back.
func (p *messagePool) Put(b *[]byte) {
	if cap(*b) <= keptMessage {
		*b = (*b)[:0]
		p.pool.Put(b)
	}
}

// newMessage returns an empty message.
func newMessage() *callMessage { return &callMessage{*messages.Get(0)} }
