package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// member is one client's part in its subscription group on one Doppler.
type member struct {
	// static
	client *Client
	addr   string
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed by run

	up  atomic.Bool
	lag atomic.Pointer[slow.Lag] // as of the last heartbeat; nil while there was none

	// owned by run
	late     bool // the client was there before the Doppler could be reached
	greeted  bool
	window   int
	follower stream.Follower
	batch    streampb.Batch                                                // scratch
	encode   func(dst []byte, gaps []*streampb.Gap, records []byte) []byte // of the client's framing, if it has one
	passed   passed                                                        // of such a client

	// guarded by the client's writing
	debt   debt
	debtTo *stream.Conn
	out    []byte

	// guarded by mu
	mu      sync.Mutex
	conn    *stream.Conn // nil while there is none
	doppler string       // who has said hello last
}

func newMember(c *Client, addr string, late bool) *member {
	m := &member{client: c, addr: addr, late: late, done: make(chan struct{})}
	m.ctx, m.cancel = context.WithCancel(c.ctx)
	if f := c.options.Framing; f != nil {
		m.encode = f.Encoder()
	}
	return m
}

// refusedWait is how long to leave a Doppler alone that does not want us.
const refusedWait = 10 * time.Second

// run keeps the member connected until its context ends.
func (m *member) run() {
	defer close(m.done)
	f := &m.follower
	*f = stream.Follower{
		Dial: m.dial, Opened: m.opened, Message: m.message, Closed: m.closed,
		IdleTimeout: m.client.relay.cfg.IdleTimeout,
	}
	for {
		err := f.Run(m.ctx)
		if m.ctx.Err() != nil {
			return
		}
		var closed *stream.CloseError
		if errors.As(err, &closed) && closed.Code == stream.CloseSuperseded {
			m.client.closeWith(closed.Code, closed.Reason)
			return
		}
		var answer *stream.HandshakeError
		if errors.As(err, &answer) && answer.Status == http.StatusBadRequest {
			// What the client asks for no Doppler of this version will serve.
			m.client.closeWith(stream.CloseInternal, fmt.Sprintf("a Doppler refuses: %s", answer.Body))
			return
		}
		m.client.relay.log.Of(m.addr).Error("Doppler refuses a Firehose member", "error", err, "retry_in", refusedWait)
		select {
		case <-time.After(refusedWait):
		case <-m.ctx.Done():
			return
		}
	}
}

// end stops the member and returns whose it was.
func (m *member) end() (doppler string) {
	m.cancel()
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.doppler
}

// dial opens the member stream: at first as the client asks, later from where
// it stands.
func (m *member) dial(ctx context.Context) (*stream.Conn, error) {
	o := &m.client.options
	q := url.Values{"shard_id": {o.Subscription}, "remote": {o.Remote}, "user": {m.client.relay.cfg.Name}}
	for _, key := range []string{"class", "type", "source_id", "name", "selector", "deterministic_name"} {
		if v := o.Query[key]; len(v) > 0 {
			q[key] = v
		}
	}
	q.Set("session", o.Session.Attempt(m.client.attempts.Add(1)).String())
	if o.Acking {
		q.Set("ack", "client")
	}
	cursor := o.Cursor
	if m.late {
		// Until it is reached the client has missed what it would have got.
		q.Set("start", "origin")
		cursor = m.client.cursor()
	}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	m.late = true
	return m.client.relay.cfg.Dial(ctx, m.addr, stream.PathFirehose, q)
}

func (m *member) opened(_ context.Context, c *stream.Conn) error {
	m.greeted, m.window = false, 0
	m.mu.Lock()
	m.conn = c
	m.mu.Unlock()
	return nil
}

func (m *member) closed(error) {
	m.mu.Lock()
	m.conn = nil
	m.mu.Unlock()
	m.up.Store(false)
	m.lag.Store(nil)
}

// connTo returns the connection if the Doppler at its end has the name.
func (m *member) connTo(doppler string) *stream.Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doppler != doppler {
		return nil
	}
	return m.conn
}

// defaultWindow is what a Doppler has that does not say.
const defaultWindow = 256 << 10

var errNoHello = errors.New("no hello from the Doppler")

// message passes a batch on. Only its metadata is looked at.
func (m *member) message(c *stream.Conn, b *stream.Buffer) error {
	meta, _, err := stream.SplitBatch(b.Bytes())
	if err == nil {
		err = stream.UnmarshalMeta(meta, &m.batch)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("member stream: %w", err)
	case !m.greeted:
		err = m.hello()
	case m.batch.GetHeartbeat() != nil:
		m.heartbeat(m.batch.GetHeartbeat())
	default:
		m.pass(c, b)
		return nil
	}
	b.Release()
	return err
}

// heartbeat notes how far the client is behind in the ring of the Doppler.
func (m *member) heartbeat(h *streampb.Heartbeat) {
	m.lag.Store(&slow.Lag{
		Envelopes: h.GetLag(), Bytes: h.GetLagBytes(), Age: time.Duration(h.GetLagAgeMillis()) * time.Millisecond,
	})
	m.client.heard.Add(1)
}

// hello takes the first message of a connection. Who the client talks to is
// this Traffic Controller; where it stands in this Doppler it has to know.
func (m *member) hello() error {
	h := m.batch.GetHello()
	if h == nil {
		return errNoHello
	}
	m.follower.Greeted(h)
	m.greeted, m.window = true, defaultWindow
	if w := h.GetWindowBytes(); w > 0 {
		m.window = int(min(w, math.MaxInt32))
	}
	m.mu.Lock()
	m.doppler = h.GetServer()
	m.mu.Unlock()
	m.up.Store(true)
	m.client.found(h.GetServer())
	p := m.batch.GetPosition()
	if p == nil {
		return nil
	}
	m.client.note(&m.batch)
	if m.encode != nil {
		return nil
	}
	b, err := metaBuffer(&streampb.Batch{Position: p})
	if err == nil {
		m.client.push(item{buf: b})
	}
	return err
}

// pass queues a batch for the client as it is.
func (m *member) pass(c *stream.Conn, b *stream.Buffer) {
	p := m.batch.GetPosition()
	m.client.note(&m.batch)
	m.client.relay.received.Add(uint64(p.GetCount()))
	it := item{
		buf: b, from: m, conn: c, size: b.Len(), window: m.window, lease: m.batch.GetLease().GetId(),
		count: p.GetCount(),
	}
	gaps := m.batch.GetGaps()
	if m.encode != nil {
		it.buf, it.count, gaps = m.frames(b)
		b.Release()
	}
	it.gaps = len(gaps)
	for _, g := range gaps {
		it.missed += g.GetCount()
	}
	m.client.push(it)
}

// frames puts what of a batch is new to the client into its framing.
func (m *member) frames(b *stream.Buffer) (framed *stream.Buffer, count uint32, gaps []*streampb.Gap) {
	_, records, err := stream.SplitBatch(b.Bytes())
	if err != nil {
		return stream.NewBuffer(0), 0, nil // message has split it before
	}
	records, count, gaps = m.passed.take(&m.batch, records)
	// In the old protocol an envelope is about as long as in the new one.
	return build(len(records)+len(records)/8+1024, func(dst []byte) []byte {
		return m.encode(dst, gaps, records)
	}), count, gaps
}

// build returns a Buffer of what is appended, which should fit into size bytes.
func build(size int, appended func([]byte) []byte) *stream.Buffer {
	room := stream.NewBuffer(size)
	p := appended(room.Bytes()[:0:size])
	if len(p) <= size {
		room.Resize(len(p))
		return room
	}
	room.Release()
	b := stream.NewBuffer(len(p))
	copy(b.Bytes(), p)
	return b
}

// written notes that a message is in the client's socket, and says so when it
// is time. For a client that does not ack itself that is the ack. The
// client's writing is held, as it is for pay.
func (m *member) written(it *item) {
	if m.debtTo != it.conn {
		m.pay()
		m.debtTo = it.conn
	}
	if m.debt.add(it.lease, it.size); m.debt.due(it.window) {
		m.pay()
	}
}

// pay says what is owed.
func (m *member) pay() {
	msg := m.debt.pay(m.out[:0])
	if len(msg) == 0 {
		return
	}
	m.out = msg
	if err := m.debtTo.Send(m.ctx, msg); err != nil {
		m.debtTo.CloseNow() // to be dialed again
	}
}
