package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// pick is what a test does in full, or where there are two cores and minutes.
func pick[T any](full, otherwise T) T {
	if blackbox.Full {
		return full
	}
	return otherwise
}

// flow is what producers send until it is stopped.
type flow struct {
	senders []*load.Sender
	end     context.CancelFunc
	sent    chan uint64
}

// startFlow sends to every Doppler, sender number i to Doppler i, which have to
// live until the flow is stopped.
func startFlow(ctx context.Context, t *testing.T, senders []*load.Sender, p *pipeline.Pipeline, s blackbox.Sending) *flow {
	t.Helper()
	f := &flow{senders: senders, sent: make(chan uint64, 1)}
	ctx, f.end = context.WithCancel(ctx)
	go func() { f.sent <- blackbox.Send(ctx, t, f.senders, p.Dopplers, s) }()
	t.Cleanup(func() { f.stop() })
	return f
}

// stop returns how many envelopes the Dopplers have confirmed.
func (f *flow) stop() uint64 {
	f.end()
	n := <-f.sent
	f.sent <- n
	return n
}

// sentOf is how much senders have sent of a source.
func sentOf(senders []*load.Sender, source int) (n uint64) {
	for _, s := range senders {
		n += s.Sent(source)
	}
	return n
}

// accepted is what the Dopplers say they took in.
func accepted(ctx context.Context, t *testing.T, p *pipeline.Pipeline) (n uint64) {
	t.Helper()
	for _, d := range p.Dopplers {
		n += uint64(blackbox.Metric(ctx, t, d, "doppler_ingress_envelopes_total"))
	}
	return n
}

// watch is what a reader has seen, and the first thing that cannot be explained.
// Its methods may be called concurrently.
type watch struct {
	name string

	mu       sync.Mutex
	changed  *sync.Cond
	fault    error
	total    uint64   // different envelopes
	again    uint64   // delivered once more
	ids      load.Set // of total
	connects int
	up       bool
	lostAt   time.Time
	away     time.Duration            // the longest
	closes   map[stream.CloseCode]int // of connections that came about
}

func newWatch(name string) *watch {
	w := &watch{name: name, closes: make(map[stream.CloseCode]int)}
	w.changed = sync.NewCond(&w.mu)
	return w
}

// failf keeps the first fault. mu is held.
func (w *watch) failf(format string, args ...any) {
	if w.fault == nil {
		w.fault = fmt.Errorf(w.name+": "+format, args...)
		w.changed.Broadcast()
	}
}

// connected notes that a connection has come about.
func (w *watch) connected() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connects++
	w.up = true
	if w.connects > 1 {
		w.away = max(w.away, time.Since(w.lostAt))
	}
	w.changed.Broadcast()
}

// lost notes that there is no connection, and why, if there was one before.
func (w *watch) lost(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.up {
		w.closes[closeCode(err)]++
		w.lostAt = time.Now()
	}
	w.up = false
	w.changed.Broadcast()
}

// wait blocks until done says so of what was seen; the error is the fault, or
// says that ctx has ended.
func (w *watch) wait(ctx context.Context, done func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.fault == nil && !done() {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: has %d envelopes, %d of them again, over %d connections: %w", w.name, w.total, w.again, w.connects, ctx.Err())
		}
		w.changed.Wait()
	}
	return w.fault
}

// until is wait for those who cannot go on without.
func (w *watch) until(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	if err := w.wait(ctx, done); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// complete waits until everything was seen that was sent, and checks that no
// more was.
func (w *watch) complete(ctx context.Context, t *testing.T, sent uint64) {
	t.Helper()
	w.until(ctx, t, fmt.Sprintf("all of %d", sent), func() bool { return w.total >= sent })
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Logf("%s: %d envelopes, %d of them again, over %d connections", w.name, w.total, w.again, w.connects)
	if w.total != sent {
		t.Fatalf("%s: has %d envelopes, sent were %d", w.name, w.total, sent)
	}
}

// socketBuffer is the size of each of the kernel's buffers where it is said.
const socketBuffer = 64 << 10

// closeCode is how a connection was closed.
func closeCode(err error) stream.CloseCode {
	var closed *stream.CloseError
	if errors.As(err, &closed) {
		return closed.Code
	}
	return stream.CloseAbnormal
}

// prefix is how many envelopes of a sender and a source were seen before the
// first that was not. mu is held.
func (w *watch) prefix(sender, source int) (n uint64) {
	for w.ids.Has(load.ID{Sender: sender, Source: source, N: n}) {
		n++
	}
	return n
}

// never fails the test if something is so of what was seen.
func (w *watch) never(t *testing.T, what string, so func() bool) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if so() {
		t.Errorf("%s: %s: has %d envelopes, %d of them again", w.name, what, w.total, w.again)
	}
}

// seen is how many different envelopes were seen so far.
func (w *watch) seen() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}
