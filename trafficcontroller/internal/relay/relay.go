// Package relay serves the Firehose: for each client one member stream to
// every Doppler, whose batches pass through as they are, or, for an older kind of
// client, are put into its own framing.
//
// Nothing is queued here beyond what a Doppler has handed out: it waits for
// Sent, which says that a batch is in the client's own socket. A client that
// stops taking shuts its window, and lags in the ring of the Doppler, where its
// gap is counted.
package relay

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// Dial opens a member stream to the Doppler at addr.
type Dial func(ctx context.Context, addr, path string, query url.Values) (*stream.Conn, error)

// Config is what New needs. Every field has to be set.
type Config struct {
	Name         string // of this Traffic Controller
	Dial         Dial
	IdleTimeout  time.Duration // a Doppler that is silent for so long is dialed again
	StuckTimeout time.Duration // a client that takes nothing for so long is cut
	Heartbeat    time.Duration // longest silence towards a client
	LostAfter    time.Duration // a Doppler that is gone for so long is given up
}

// Conn is the part of a stream.Conn that a client needs, with its meaning.
type Conn interface {
	Read(ctx context.Context) (*stream.Buffer, error)
	TryWriteFrames(bufs [][]byte) (rest *stream.Unwritten, ok bool, err error)
	WriteFrames(bufs [][]byte, release func(spilled bool), timeout time.Duration) error
	Close(code stream.CloseCode, reason string) error
	CloseNow()
}

// Relay serves Firehose clients. Its methods may be called concurrently.
type Relay struct {
	// static
	cfg Config
	log *daemon.QuietEach // by address of a Doppler

	received, sent, bytes, missed atomic.Uint64

	clock atomic.Int64 // unix ns, as of the last tick of Run

	wg sync.WaitGroup // of clients

	// guarded by mu
	mu      sync.Mutex
	addrs   map[string]bool
	clients map[*Client]struct{}
	stopped bool
}

// New returns a Relay that knows no Doppler.
func New(cfg Config, log *daemon.QuietEach) *Relay {
	r := &Relay{cfg: cfg, log: log, addrs: map[string]bool{}, clients: map[*Client]struct{}{}}
	r.clock.Store(time.Now().UnixNano())
	return r
}

// Added says that there is a Doppler at addr. Clients that are there already
// read it from its origin.
func (r *Relay) Added(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addrs[addr] = true
	for c := range r.clients {
		c.add(addr, true)
	}
}

// Removed says that addr is no Doppler any more.
func (r *Relay) Removed(addr string) {
	r.mu.Lock()
	delete(r.addrs, addr)
	clients := slices.Collect(maps.Keys(r.clients))
	r.mu.Unlock()
	until := time.Now().Add(r.cfg.LostAfter)
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() { c.remove(addr, until) })
	}
	wg.Wait()
}

// Options say what a client wants. Strings are passed on to the Dopplers.
type Options struct {
	Subscription string
	Query        url.Values // class, type, source_id, name, or selector; deterministic_name
	Cursor       string
	Session      stream.Session // of the client; if it has none, it gets one
	Acking       bool           // the client itself acks
	Framing      *Framing       // nil: batches
	Slow         slow.Policy
	Who          slow.Who // for views
	Remote       string   // told to the Dopplers
	// Access, if set, is told after hello; Token is given each token that the
	// client sends, and must not wait. Nil: it may send none.
	Access *streampb.Access
	Token  func(c *Client, token string)
	// Closed is called once, when the client is gone.
	Closed func(Row, error)
}

// Framing is how an older kind of client is talked to. It gets no more than
// envelopes and gaps, and what it says is not listened to.
type Framing struct {
	// Encoder returns what appends, ready to be written, a batch: gaps first. It
	// is used by one goroutine; several of them may be in use at a time.
	Encoder func() func(dst []byte, gaps []*streampb.Gap, records []byte) []byte
	// A client that takes nothing for StuckTimeout is cut.
	StuckTimeout time.Duration
	SlowCode     stream.CloseCode // that a slow client is cut with
}

var errStopping = errors.New("this Traffic Controller is stopping")

// Open serves a client until its connection ends. It returns at once.
func (r *Relay) Open(conn Conn, o Options) error {
	var cursor *streampb.Cursor
	if o.Cursor != "" {
		var err error
		if cursor, err = stream.DecodeCursor(o.Cursor); err != nil {
			return err
		}
	}
	if o.Session.ID == "" {
		o.Session = stream.NewSession()
	}
	c := &Client{
		place: stream.NewPlace(cursor, false),
		relay: r, conn: conn, options: o, opened: time.Now(), wake: make(chan struct{}, 1), due: time.NewTimer(payAfter),
		members: map[string]*member{}, lost: map[string]time.Time{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wrote.Store(c.opened.UnixNano())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return errStopping
	}
	if o.Framing == nil {
		if err := c.hello(len(r.clients)); err != nil {
			return err
		}
		if o.Access != nil {
			c.Tell(o.Access)
		}
	}
	r.clients[c] = struct{}{}
	for addr := range r.addrs {
		c.add(addr, false)
	}
	r.wg.Add(1)
	c.written.Add(1)
	go c.read()
	go c.write()
	return nil
}

// Run sends heartbeats, tells which Dopplers are given up, and looks at how far
// clients are behind, until ctx ends.
func (r *Relay) Run(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.Heartbeat / 4)
	defer tick.Stop()
	looked := time.Now()
	for {
		select {
		case now := <-tick.C:
			r.clock.Store(now.UnixNano())
			r.heartbeat(now)
			if now.Sub(looked) >= r.cfg.Heartbeat*7/8 {
				looked = now
				r.look(now)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// heartbeat gives a sign of life to the clients that have had none for a
// while, and for which nothing waits: else beats would pile up behind it.
func (r *Relay) heartbeat(now time.Time) {
	r.mu.Lock()
	clients := slices.Collect(maps.Keys(r.clients))
	r.mu.Unlock() // a push may write, and tell a Doppler so
	for _, c := range clients {
		c.giveUp(now)
		if c.options.Framing != nil || now.Sub(time.Unix(0, c.wrote.Load())) < r.cfg.Heartbeat*3/4 || c.waits() {
			continue
		}
		lag := c.told()
		b, err := metaBuffer(&streampb.Batch{Heartbeat: &streampb.Heartbeat{
			Timestamp: now.UnixNano(), Accepted: r.received.Load(), Dropped: r.missed.Load(),
			Lag: lag.Envelopes, LagBytes: lag.Bytes, LagAgeMillis: uint64(lag.Age.Milliseconds()),
		}})
		if err == nil {
			c.push(item{buf: b})
		}
	}
}

// Close ends every client with a reason, spread over the given time, and
// waits for them.
func (r *Relay) Close(code stream.CloseCode, reason string, over time.Duration) {
	r.mu.Lock()
	r.stopped = true
	clients := make([]*Client, 0, len(r.clients))
	for c := range r.clients {
		clients = append(clients, c)
	}
	r.mu.Unlock()
	pause := over / time.Duration(max(len(clients), 1))
	var wg sync.WaitGroup
	for i, c := range clients {
		if i > 0 {
			<-time.After(pause)
		}
		wg.Go(func() { c.closeWith(code, reason) })
	}
	wg.Wait()
	r.wg.Wait()
}

// Stats are the relay's totals.
type Stats struct {
	Received uint64 // envelopes from Dopplers
	Sent     uint64 // envelopes written to clients
	Bytes    uint64 // written to clients
	Clients  int
}

// Stats may be called at any time.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{
		Received: r.received.Load(), Sent: r.sent.Load(), Bytes: r.bytes.Load(),
		Clients: len(r.clients),
	}
}

// Rows shows every client.
func (r *Relay) Rows() []Row {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := make([]Row, 0, len(r.clients))
	for c := range r.clients {
		rows = append(rows, c.Row())
	}
	return rows
}

// metaBuffer encodes a batch without envelopes.
func metaBuffer(b *streampb.Batch) (*stream.Buffer, error) {
	meta, err := stream.AppendBatchMeta(nil, b)
	if err != nil {
		return nil, err
	}
	buf := stream.NewBuffer(len(meta))
	copy(buf.Bytes(), meta)
	return buf, nil
}

// Addrs are the addresses of the Dopplers, in order.
func (r *Relay) Addrs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.addrs))
}
