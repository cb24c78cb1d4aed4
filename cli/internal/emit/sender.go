// Package emit sends envelopes to Dopplers over loggregator.v2.Ingress without
// losing any, and makes envelopes out of lines or out of nothing.
package emit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// How much may be sent on one stream before the Doppler is asked to confirm
// it. All of it is kept until then, to be sent again if the stream breaks.
const (
	windowBytes = 8 << 20
	windowTime  = 2 * time.Second
	// A server that ends every stream with an error is not worth more tries.
	confirmAttempts = 5
)

// ErrClosed says that the Sender was closed.
var ErrClosed = errors.New("sender is closed")

// Config says where and how a Sender sends.
type Config struct {
	// Addr is host:port of the Doppler's gRPC listener.
	Addr string
	// Credentials secure the connection; nil means plaintext.
	Credentials credentials.TransportCredentials
	// BatchEnvelopes and BatchBytes close a batch; BatchDelay is the longest
	// an envelope waits for company. Defaults: 100, 1 MiB, 10 ms.
	BatchEnvelopes int
	BatchBytes     int
	BatchDelay     time.Duration
	// GiveUp is for how long a lost Doppler is tried again. Default: 1 min.
	GiveUp time.Duration
	// ConfirmTimeout is how long a Doppler may take to confirm a stream.
	// Default: 30 s.
	ConfirmTimeout time.Duration
	// Notice is told, in plain words, what a person should know. It is called
	// with the Sender locked and must not call back.
	Notice func(string)
	// Observer, if not nil, is told what becomes of the envelopes.
	Observer Observer
}

// Observer is told what becomes of the envelopes of one Sender, which are
// numbered from 0 in the order of Send. It is called with the Sender locked
// and must not call back.
type Observer interface {
	// Confirmed says that all below n are accepted.
	Confirmed(n uint64)
	// Broken says that the stream broke and all from first on to below end are
	// going to be sent again: some of them may have been accepted.
	Broken(first, end uint64)
	// Mended says that they were.
	Mended()
}

type nobody struct{}

func (nobody) Confirmed(uint64)      {}
func (nobody) Broken(uint64, uint64) {}
func (nobody) Mended()               {}

func (c Config) withDefaults() Config {
	if c.Credentials == nil {
		c.Credentials = insecure.NewCredentials()
	}
	c.BatchEnvelopes = positive(c.BatchEnvelopes, 100)
	c.BatchBytes = positive(c.BatchBytes, 1<<20)
	c.BatchDelay = positive(c.BatchDelay, 10*time.Millisecond)
	c.GiveUp = positive(c.GiveUp, time.Minute)
	c.ConfirmTimeout = positive(c.ConfirmTimeout, 30*time.Second)
	if c.Notice == nil {
		c.Notice = func(string) {}
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	return c
}

func positive[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// Sender sends envelopes to one Doppler, in order. Its methods may be called
// concurrently. Servers answer a stream only at its end, so the Sender ends
// its stream now and then, waits for the answer and opens the next: what was
// sent before is then known to be accepted, and what was not is sent again on
// a new stream when the old one broke (then some of it may arrive twice).
type Sender struct {
	// Static.
	cfg  Config
	ctx  context.Context
	conn *grpc.ClientConn

	mu     sync.Mutex
	link   *link  // nil between streams
	batch  []byte // not sent yet
	count  int    // envelopes in batch
	window []sent // sent on link, not confirmed
	size   int    // bytes in window
	stats  Stats
	err    error // sticky
	closed bool

	// Stopped by Close; their functions lock mu.
	flushTimer   *time.Timer
	confirmTimer *time.Timer
}

// sent is a batch that may have to be sent again.
type sent struct {
	batch []byte
	count int
}

// Stats counts envelopes.
type Stats struct {
	// Taken by Send.
	Taken uint64
	// Confirmed by the Doppler.
	Confirmed uint64
	// Resent because a stream broke before it was confirmed: at most so many
	// may be there twice.
	Resent uint64
	// Bytes is the encoded size of what was taken.
	Bytes uint64
}

// Dial returns a Sender that is connected: it fails when the Doppler cannot be
// reached at once. Cancelling ctx aborts everything the Sender does, so ctx
// must outlive Close.
func Dial(ctx context.Context, cfg Config) (*Sender, error) {
	cfg = cfg.withDefaults()
	conn, err := grpc.NewClient("passthrough:///"+cfg.Addr,
		grpc.WithTransportCredentials(cfg.Credentials),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 20 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare the connection to %s: %w", cfg.Addr, err)
	}
	s := &Sender{cfg: cfg, ctx: ctx, conn: conn}
	if s.link, err = openLink(ctx, conn, cfg.ConfirmTimeout); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the Doppler at %s: %w", cfg.Addr, err), conn.Close())
	}
	s.flushTimer = stoppedTimer(s.onFlushTimer)
	s.confirmTimer = stoppedTimer(s.onConfirmTimer)
	return s, nil
}

func stoppedTimer(f func()) *time.Timer {
	t := time.AfterFunc(time.Hour, f)
	t.Stop()
	return t
}

// Send takes one envelope. It blocks while the Doppler takes no more, and
// while the connection is being re-established. The envelope is the caller's
// again when it returns. An error is final: it says that the Doppler is lost.
func (s *Sender) Send(e *loggregatorv2.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	before := len(s.batch)
	batch, err := appendRecord(s.batch, e)
	if err != nil {
		return err
	}
	s.batch = batch
	s.count++
	s.stats.Taken++
	s.stats.Bytes += uint64(len(batch) - before)
	if s.count >= s.cfg.BatchEnvelopes || len(s.batch) >= s.cfg.BatchBytes {
		return s.flush()
	}
	if s.count == 1 {
		s.flushTimer.Reset(s.cfg.BatchDelay)
	}
	return nil
}

// Close sends what is left and waits until the Doppler has confirmed
// everything; nil means that all that Send took was accepted.
func (s *Sender) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.err
	}
	s.flushTimer.Stop()
	s.confirmTimer.Stop()
	if s.err == nil {
		s.err = s.flush()
	}
	if s.err == nil {
		s.err = s.confirm()
	}
	if s.link != nil {
		s.link.abort()
	}
	s.closed = true
	return errors.Join(s.err, s.conn.Close())
}

// Stats may be called at any time, also after Close.
func (s *Sender) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Sender) usable() error {
	if s.closed {
		return ErrClosed
	}
	return s.err
}

func (s *Sender) onFlushTimer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usable() == nil {
		s.err = s.flush()
	}
}

func (s *Sender) onConfirmTimer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usable() == nil {
		s.err = s.confirm()
	}
}

// flush sends the batch. The caller holds mu.
func (s *Sender) flush() error {
	if s.count == 0 {
		return nil
	}
	if len(s.window) == 0 {
		s.confirmTimer.Reset(windowTime)
	}
	b := sent{batch: s.batch, count: s.count}
	s.window = append(s.window, b)
	s.size += len(b.batch)
	s.batch, s.count = make([]byte, 0, len(b.batch)+len(b.batch)/4), 0
	if err := s.transmit(b); err != nil {
		s.err = err
		return err
	}
	if s.size >= windowBytes {
		s.err = s.confirm()
	}
	return s.err
}

// transmit sends the newest batch of the window; if the stream is broken, the
// whole window on a new one.
func (s *Sender) transmit(b sent) error {
	if s.link != nil {
		err := s.link.send(b.batch)
		if err == nil {
			return nil
		}
		return s.reconnect(err, len(s.window)-1)
	}
	link, err := openLink(s.ctx, s.conn, s.cfg.ConfirmTimeout)
	if err != nil {
		return s.reconnect(err, len(s.window)-1)
	}
	s.link = link
	return s.transmit(b)
}

// confirm ends the stream and waits until everything on it is known to be
// accepted. The caller holds mu.
func (s *Sender) confirm() error {
	s.confirmTimer.Stop()
	if len(s.window) == 0 {
		return nil
	}
	var err error
	for range confirmAttempts {
		if err = s.link.finish(); err == nil {
			s.settle()
			return nil
		}
		if err := s.reconnect(err, len(s.window)); err != nil {
			return err
		}
	}
	return s.lost(err)
}

func (s *Sender) settle() {
	for _, b := range s.window {
		s.stats.Confirmed += uint64(b.count)
	}
	clear(s.window)
	s.window, s.size, s.link = s.window[:0], 0, nil
	s.cfg.Observer.Confirmed(s.stats.Confirmed)
}
