package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// ReaderConfig is what to read.
type ReaderConfig struct {
	// URL of a Traffic Controller, ws or wss; TLS may be nil.
	URL string
	TLS *tls.Config `json:"-"`
	// Subscription of the Firehose to read; or, when it is empty, the source
	// id to tail, with the number of that source.
	Subscription string
	SourceID     string
	Source       int
	// Direct says that URL is a Doppler's stream listener: the reader is then
	// what a Traffic Controller is otherwise, for a Firehose only.
	Direct bool
	// Old says that it is a Firehose in the old framing, of which messages are
	// counted: see Counter.
	Old bool
	// Query is added to the URL, Header (of old framing only) to the request.
	Query  url.Values
	Header http.Header
	// Ack makes the reader ack each batch itself; else the Traffic Controller
	// does, once the batch is written.
	Ack bool
	// Rate is how many envelopes per second it takes at most; 0 is no limit.
	Rate float64
	// Track keeps every offset, see Account.Late.
	Track bool
	// Remember keeps every ID, see Ledger.Seen.
	Remember bool
	// SocketBuffer is the size of the kernel's buffers, 0 for the default.
	SocketBuffer int
}

// Reader reads one stream and keeps account of it.
type Reader struct {
	conf ReaderConfig
	conn *stream.Conn

	resumed chan struct{} // unbuffered: to Resume

	mu      sync.Mutex
	changed *sync.Cond
	account Account
	paused  bool
	places  map[string]Place
	offsets map[string]*Set // received, by Doppler
	ended   error           // why it reads no more
	began   time.Time
	rate    float64 // envelopes per second it takes at most; 0: no limit
}

// Place is how far a reader was served by one Doppler.
type Place struct {
	Epoch, Next uint64
	Finished    bool
}

// Account is what a reader got.
type Account struct {
	Ledger
	Batches uint64
	// Gaps told, by precision; the count of UNKNOWN ones says nothing.
	Exact, AtLeast, Unknown uint64
	// GapReasons counts envelopes of exact gaps by reason.
	GapReasons map[string]uint64
	// Late counts envelopes that were received and told as missed as well: the
	// ring had let go of them before their ack came. Kept with Track only.
	Late uint64
	// Redelivered counts envelopes that were marked as handed out before.
	Redelivered uint64
	// Heartbeats received.
	Heartbeats uint64
}

// OpenReader dials and waits for the server's hello. The caller runs the reader
// with Run, and ends it with Close.
func OpenReader(ctx context.Context, conf ReaderConfig) (*Reader, error) {
	r := &Reader{conf: conf, rate: conf.Rate, places: make(map[string]Place), offsets: make(map[string]*Set), resumed: make(chan struct{})}
	r.changed = sync.NewCond(&r.mu)
	r.account.GapReasons = make(map[string]uint64)
	r.account.Only = AnySource
	if conf.Subscription == "" {
		r.account.Only = conf.Source
	}
	if conf.Remember {
		r.account.Seen = new(Set)
	}
	var err error
	r.conn, err = stream.Dial(ctx, r.target(), stream.DialOptions{
		TLS: conf.TLS, Subprotocol: subprotocol(conf.Direct), SocketBuffer: conf.SocketBuffer,
	})
	if err != nil {
		return nil, fmt.Errorf("open reader: %w", err)
	}
	hello, err := r.read(ctx)
	if err == nil && hello.GetHello() == nil {
		err = errors.New("the first message is no hello")
	}
	if err != nil {
		r.conn.CloseNow()
		return nil, fmt.Errorf("open reader: %w", err)
	}
	return r, nil
}

func subprotocol(direct bool) string {
	if direct {
		return ""
	}
	return stream.Subprotocol
}

func (r *Reader) target() string {
	query := url.Values{}
	maps.Copy(query, r.conf.Query)
	if r.conf.Direct {
		query.Set("shard_id", r.conf.Subscription)
		return r.conf.URL + stream.PathFirehose + "?" + query.Encode()
	}
	path := "/apps/" + url.PathEscape(r.conf.SourceID) + "/stream"
	if r.conf.Subscription != "" {
		path = "/firehose/" + url.PathEscape(r.conf.Subscription)
		query.Set("ack", "auto")
		if r.conf.Ack {
			query.Set("ack", "client")
		}
	}
	return r.conf.URL + path + "?" + query.Encode()
}

// Run reads until ctx ends, Close is called or the server ends the stream; only
// the last is an error, which is a *stream.CloseError if the server said why.
func (r *Reader) Run(ctx context.Context) error {
	r.mu.Lock()
	r.began = time.Now()
	r.mu.Unlock()
	var err error
	for err == nil {
		if err = r.hold(ctx); err == nil {
			_, err = r.read(ctx)
		}
	}
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = errors.Join(errors.New("the reader has ended"), err)
	r.changed.Broadcast()
	return err
}

// read takes one message into account.
func (r *Reader) read(ctx context.Context) (*streampb.Batch, error) {
	buffer, err := r.conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	defer buffer.Release()
	meta, records, err := stream.SplitBatch(buffer.Bytes())
	if err != nil {
		return nil, err
	}
	batch := new(streampb.Batch)
	if err := stream.UnmarshalMeta(meta, batch); err != nil {
		return nil, err
	}
	r.take(batch, records)
	if r.conf.Direct && batch.GetLease() != nil {
		if err := r.conn.Send(ctx, stream.AppendSent(nil, batch.GetLease().GetId())); err != nil {
			return nil, err
		}
	}
	if (r.conf.Ack || r.conf.Direct) && batch.GetLease() != nil {
		if err := r.ack(ctx, batch); err != nil {
			return nil, err
		}
	}
	return batch, r.pace(ctx)
}

func (r *Reader) take(batch *streampb.Batch, records []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &r.account
	before := a.Received
	if len(records) > 0 {
		a.Batches++
		a.Add(records, time.Now())
	}
	if batch.GetLease().GetRedelivered() {
		a.Redelivered += a.Received - before
	}
	if batch.GetHeartbeat() != nil {
		a.Heartbeats++
	}
	for _, gap := range batch.GetGaps() {
		a.Late += r.overlap(gap)
		switch gap.GetPrecision() {
		case streampb.Gap_EXACT:
			a.Exact += gap.GetCount()
			a.GapReasons[gap.GetReason().String()] += gap.GetCount()
		case streampb.Gap_AT_LEAST:
			a.AtLeast += gap.GetCount()
		default:
			a.Unknown++
		}
	}
	if p := batch.GetPosition(); p.GetDoppler() != "" {
		r.remember(p)
		r.places[p.GetDoppler()] = Place{Epoch: p.GetEpoch(), Next: p.GetNext()}
	}
	for _, fin := range batch.GetFins() {
		r.places[fin.GetDoppler()] = Place{Epoch: fin.GetEpoch(), Next: fin.GetEnd(), Finished: true}
	}
	r.changed.Broadcast()
}

// remember keeps the offsets received, as long as the Doppler lives.
func (r *Reader) remember(p *streampb.Position) {
	if !r.conf.Track {
		return
	}
	set := r.offsets[p.GetDoppler()]
	if set == nil || r.places[p.GetDoppler()].Epoch != p.GetEpoch() {
		set = new(Set)
		r.offsets[p.GetDoppler()] = set
	}
	offset := p.GetFirst()
	for i := range p.GetCount() {
		if deltas := p.GetDeltas(); i > 0 && len(deltas) > 0 {
			offset += uint64(deltas[i-1])
		} else if i > 0 {
			offset++
		}
		set.Add(ID{N: offset})
	}
}

// overlap counts what a gap says of envelopes that were received.
func (r *Reader) overlap(gap *streampb.Gap) (n uint64) {
	set := r.offsets[gap.GetDoppler()]
	if set == nil || r.places[gap.GetDoppler()].Epoch != gap.GetEpoch() {
		return 0
	}
	for offset := gap.GetFrom(); offset < gap.GetTo(); offset++ {
		if set.Has(ID{N: offset}) {
			n++
		}
	}
	return n
}

func (r *Reader) ack(ctx context.Context, batch *streampb.Batch) error {
	ranges := stream.AckRanges(nil, batch)
	if len(ranges) == 0 {
		return nil
	}
	p := batch.GetPosition()
	return r.conn.Send(ctx, stream.AppendAck(nil, p.GetDoppler(), p.GetEpoch(), ranges...))
}

// pace waits as long as the rate asks for.
func (r *Reader) pace(ctx context.Context) error {
	r.mu.Lock()
	rate, due := r.rate, r.began
	if rate > 0 {
		due = due.Add(time.Duration(float64(r.account.Received) / rate * float64(time.Second)))
	}
	r.mu.Unlock()
	if rate == 0 {
		return nil
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Hurry lifts the limit of the rate; a wait that has begun goes on.
func (r *Reader) Hurry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate = 0
}

// Pause makes the reader stop reading, without a word to the server, until
// Resume. A message may still be taken.
func (r *Reader) Pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = true
}

// Resume ends a Pause. It blocks until the reader reads on, or ctx ends.
func (r *Reader) Resume(ctx context.Context) error {
	r.mu.Lock()
	r.paused = false
	r.mu.Unlock()
	select {
	case r.resumed <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("resume reader: %w", ctx.Err())
	}
}

func (r *Reader) hold(ctx context.Context) error {
	r.mu.Lock()
	paused := r.paused
	r.mu.Unlock()
	if !paused {
		return nil
	}
	select {
	case <-r.resumed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Latency is a copy of the latencies so far, nil if there are none, which begin
// anew if reset is set.
func (r *Reader) Latency(reset bool) *Histogram {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.account.Latency == nil {
		return nil
	}
	latency := *r.account.Latency
	if reset {
		r.account.Latency = nil
	}
	return &latency
}

// Account is a copy of the account so far. Seen and the latencies are shared
// with it: they may be read once the reader has ended.
func (r *Reader) Account() Account {
	r.mu.Lock()
	defer r.mu.Unlock()
	account := r.account
	account.GapReasons = maps.Clone(account.GapReasons)
	return account
}

// Places is how far it was served, by name of Doppler.
func (r *Reader) Places() map[string]Place {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.places)
}

// Until blocks until the account satisfies done, the reader ends or ctx does.
func (r *Reader) Until(ctx context.Context, done func(Account, map[string]Place) bool) error {
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changed.Broadcast()
	})
	defer stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !done(r.account, r.places) {
		if r.ended != nil {
			return r.ended
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for reader: %w", context.Cause(ctx))
		}
		r.changed.Wait()
	}
	return nil
}

// Close ends the connection in good order.
func (r *Reader) Close() error { return r.conn.Close(stream.CloseNormal, "done") }

// Break ends the connection without a word.
func (r *Reader) Break() { r.conn.CloseNow() }
