package relay

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// place is how far a member was served, for its next dial.
type place struct {
	doppler         string
	epoch           uint64
	low, lowMatched uint64
	seen            uint64
	finished        bool
}

// member is one client's part in its subscription group on one Doppler.
type member struct {
	client *Client
	addr   string
	late   bool
	cancel context.CancelFunc
	ctx    context.Context
	done   chan struct{}

	up  atomic.Bool
	lag atomic.Uint64

	batch streampb.Batch // scratch of message

	// owned by the client's writer
	sentLease uint64
	sentConn  *stream.Conn
	out       []byte

	// guarded by mu
	mu    sync.Mutex
	conn  *stream.Conn // nil while there is none
	place place
}

func newMember(c *Client, addr string, late bool) *member {
	m := &member{client: c, addr: addr, late: late, done: make(chan struct{})}
	m.ctx, m.cancel = context.WithCancel(c.ctx)
	return m
}

// run keeps the member connected until its context ends.
func (m *member) run() {
	defer close(m.done)
	f := stream.Follower{
		Dial: m.dial, Opened: m.opened, Message: m.message, Closed: m.closed,
		IdleTimeout: m.client.relay.cfg.IdleTimeout,
	}
	err := f.Run(m.ctx)
	if m.ctx.Err() == nil {
		// The Doppler refuses what the client asks for.
		m.client.closeWith(stream.CloseInternal, fmt.Sprintf("a Doppler refuses: %v", err))
	}
}

// end stops a member whose Doppler is gone for good and tells the client what
// that may mean.
func (m *member) end() {
	m.cancel()
	<-m.done
	m.mu.Lock()
	p := m.place
	m.mu.Unlock()
	if p.epoch == 0 || p.finished {
		return
	}
	b, err := metaBuffer(&streampb.Batch{Gaps: []*streampb.Gap{{
		Doppler: p.doppler, Epoch: p.epoch, Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST,
	}}})
	if err == nil {
		m.client.push(item{buf: b, gaps: 1})
	}
}

// dial opens the member stream: at first as the client asks, later from where
// the member was.
func (m *member) dial(ctx context.Context) (*stream.Conn, error) {
	o := &m.client.options
	q := url.Values{"shard_id": {o.Subscription}, "remote": {o.Remote}, "user": {m.client.relay.cfg.Name}}
	for _, key := range []string{"type", "source_id", "name"} {
		if v := o.Query[key]; len(v) > 0 {
			q[key] = v
		}
	}
	if o.Acking {
		q.Set("ack", "client")
	}
	m.mu.Lock()
	p := m.place
	m.mu.Unlock()
	switch {
	case p.epoch != 0:
		q.Set("cursor", stream.EncodeCursor(&streampb.Cursor{Version: 1, Entries: []*streampb.CursorEntry{{
			Doppler: p.doppler, Epoch: p.epoch, Offset: p.low, Matched: p.lowMatched, Seen: p.seen, Finished: p.finished,
		}}}))
	case o.Cursor != "":
		q.Set("cursor", o.Cursor)
	}
	if m.late || p.epoch != 0 {
		q.Set("start", "origin")
	}
	return m.client.relay.cfg.Dial(ctx, m.addr, stream.PathFirehose, q)
}

func (m *member) opened(_ context.Context, c *stream.Conn) error {
	m.mu.Lock()
	m.conn = c
	m.mu.Unlock()
	m.up.Store(true)
	return nil
}

func (m *member) closed(error) {
	m.mu.Lock()
	m.conn = nil
	m.mu.Unlock()
	m.up.Store(false)
}

// connTo returns the connection if the Doppler at its end has the name.
func (m *member) connTo(doppler string) *stream.Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.place.doppler != doppler {
		return nil
	}
	return m.conn
}

// message passes a batch on. Only its metadata is looked at.
func (m *member) message(c *stream.Conn, b *stream.Buffer) error {
	meta, _, err := stream.SplitBatch(b.Bytes())
	if err == nil {
		err = stream.UnmarshalMeta(meta, &m.batch)
	}
	if err != nil {
		b.Release()
		return fmt.Errorf("firehose member: %w", err)
	}
	p, hello := m.batch.GetPosition(), m.batch.GetHello()
	if beat := m.batch.GetHeartbeat(); beat != nil {
		m.lag.Store(beat.GetLag())
		b.Release()
		return nil
	}
	m.follow(&m.batch)
	if hello != nil {
		// Who the client talks to is this Traffic Controller; where it stands
		// in this Doppler it has to know.
		b.Release()
		if b, err = metaBuffer(&streampb.Batch{Position: p}); err != nil {
			return err
		}
		m.client.push(item{buf: b})
		return nil
	}
	m.client.relay.received.Add(uint64(p.GetCount()))
	it := item{buf: b, from: m, conn: c, lease: m.batch.GetLease().GetId(), count: p.GetCount(), gaps: len(m.batch.GetGaps())}
	m.client.push(it)
	return nil
}

// follow notes where the member is.
func (m *member) follow(b *streampb.Batch) {
	p := b.GetPosition()
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.GetDoppler() != "" {
		if m.place.epoch != p.GetEpoch() || m.place.doppler != p.GetDoppler() {
			m.place = place{doppler: p.GetDoppler(), epoch: p.GetEpoch()}
		}
		if p.GetLow() >= m.place.low {
			m.place.low, m.place.lowMatched = p.GetLow(), p.GetLowMatched()
		}
		m.place.seen = max(m.place.seen, p.GetNext())
	}
	for _, f := range b.GetFins() {
		if f.GetEpoch() == m.place.epoch {
			m.place.finished = true
		}
	}
}

// written notes that a message is in the client's socket.
func (m *member) written(it *item) {
	if m.sentConn != it.conn {
		m.flush()
		m.sentConn = it.conn
	}
	m.sentLease = it.lease
}

// flush says so to the Doppler. For a client that does not ack it is the ack.
func (m *member) flush() {
	if m.sentLease == 0 {
		return
	}
	m.out = stream.AppendSent(m.out[:0], m.sentLease)
	m.sentLease = 0
	if err := m.sentConn.Send(m.ctx, m.out); err != nil {
		m.sentConn.CloseNow()
	}
}
