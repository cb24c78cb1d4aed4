// Package pump moves batches from a stream to a sink, at least once: a batch
// is acked when the sink has taken it, and not before.
package pump

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// Sink takes batches. It is all a new sink has to implement.
type Sink interface {
	// Write takes responsibility for everything in the batches, gaps
	// included, in their order: when it returns nil they are acked, so they
	// have to be where the sink promises them to be. The batches belong to
	// the caller; of what it wants to keep, Write makes a copy.
	//
	// Write may block, until ctx ends at the latest; meanwhile what follows
	// is collected (1 MiB) for the next call, and then nothing more is
	// read. An error means that the same batches come again, after a pause;
	// what the sink had taken of them comes twice then, so a sink should
	// undo it, or leave out what it has seen by the identity of envelopes.
	// Calls do not overlap.
	Write(ctx context.Context, batches []*nozzle.Batch) error
}

// Stream is what a Pump needs of a *nozzle.Stream.
type Stream interface {
	Recv(ctx context.Context) (*nozzle.Batch, error)
	Cursor() string
	Status() nozzle.Status
	Close() error
}

// Config is what a Pump is made of.
type Config struct {
	Stream Stream // the Pump closes it
	Sink   Sink
	// Cursors, if set, keeps the cursor for the next start.
	Cursors *CursorFile
	// Grace is how long the sink may take in the end for what was received.
	Grace time.Duration
	// DeadAfter is how long there may be no connection before that is bad
	// health.
	DeadAfter time.Duration
	Registry  prometheus.Registerer
	Log       *slog.Logger
}

const (
	// queueBytes bounds what waits for the sink.
	queueBytes = 1 << 20
	// Waiting between tries of a failed write: from the first, twice as long
	// each time, to the second, each give or take a third.
	shortestPause = 100 * time.Millisecond
	longestPause  = 10 * time.Second
	// cursorEvery is how often the cursor is stored at most.
	cursorEvery = time.Second
)

// Pump is one stream and one sink.
type Pump struct {
	cfg     Config
	metrics *metrics
	failing atomic.Pointer[failure] // nil while the sink is well
}

// failure is why and since when the sink fails.
type failure struct {
	since time.Time
	err   error
}

// New returns a Pump whose metrics are registered.
func New(cfg Config) *Pump {
	return &Pump{cfg: cfg, metrics: newMetrics(cfg.Registry, cfg.Stream)}
}

// Run moves batches until ctx ends or the stream is over. Then it gives the
// sink Grace for what was received, acks that, and closes the stream. The error is that of the stream, or says what the sink did not
// take; the end of ctx is none.
func (p *Pump) Run(ctx context.Context) error {
	q := newQueue(queueBytes)
	received := make(chan error, 1)
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() {
		err := p.receive(ctx, q)
		time.AfterFunc(p.cfg.Grace, cancel)
		q.close()
		received <- err
	}()
	delivered := p.deliver(late, q)
	cancel()
	err := errors.Join(<-received, delivered)
	if closeErr := p.cfg.Stream.Close(); closeErr != nil {
		err = errors.Join(err, closeErr)
	}
	return errors.Join(err, p.saveCursor())
}

// receive puts what the stream has into the queue.
func (p *Pump) receive(ctx context.Context, q *queue) error {
	for {
		b, err := p.cfg.Stream.Recv(ctx)
		switch {
		case err == nil:
		case errors.Is(err, ctx.Err()):
			return nil
		default:
			return fmt.Errorf("receive: %w", err)
		}
		p.received(b)
		if !q.put(ctx, b) {
			return nil // not acked: it will be delivered again
		}
	}
}

func (p *Pump) received(b *nozzle.Batch) {
	p.metrics.received.Add(float64(b.Len()))
	p.metrics.bytes.Add(float64(len(b.Envelopes)))
	if b.Redelivered {
		p.metrics.redelivered.Add(float64(b.Len()))
	}
	for _, g := range b.Gaps {
		p.metrics.gap(g)
		p.cfg.Log.Warn("envelopes missed", "count", g.GetCount(), "precision", g.GetPrecision().String(),
			"reason", reason(g), "doppler", g.GetDoppler(), "epoch", g.GetEpoch(), "from", g.GetFrom(), "to", g.GetTo())
	}
}

// deliver writes what is queued and acks it, until the queue is at its end or
// ctx ends.
func (p *Pump) deliver(ctx context.Context, q *queue) error {
	var batches []*nozzle.Batch
	var saved time.Time
	for {
		batches = q.take(ctx, batches)
		if batches == nil {
			return nil
		}
		if err := p.write(ctx, batches); err != nil {
			return err
		}
		for i, b := range batches {
			b.Ack()
			p.metrics.acked.Add(float64(b.Len()))
			b.Release()
			batches[i] = nil
		}
		if time.Since(saved) >= cursorEvery {
			saved = time.Now()
			if err := p.saveCursor(); err != nil {
				p.cfg.Log.Error("cursor is not stored", "error", err)
			}
		}
	}
}

// write repeats a write until the sink takes it or ctx ends.
func (p *Pump) write(ctx context.Context, batches []*nozzle.Batch) error {
	for try := 0; ; try++ {
		begun := time.Now()
		err := p.cfg.Sink.Write(ctx, batches)
		if err == nil {
			p.metrics.writes.Observe(time.Since(begun).Seconds())
			if f := p.failing.Swap(nil); f != nil {
				p.cfg.Log.Info("sink is well again", "after", time.Since(f.since).String())
			}
			return nil
		}
		p.metrics.sinkErrors.Inc()
		since := begun
		if f := p.failing.Load(); f != nil {
			since = f.since
		}
		p.failing.Store(&failure{since: since, err: err})
		pause := pauseAfter(try)
		p.cfg.Log.Error("sink failed, nothing is acked", "error", err, "again_in", pause.String())
		if !sleep(ctx, pause) {
			return fmt.Errorf("%d batches given up, they will be delivered again: %w", len(batches), err)
		}
	}
}

func pauseAfter(try int) time.Duration {
	d := longestPause
	if try < 7 {
		d = min(d, shortestPause<<try)
	}
	return d*2/3 + rand.N(d*2/3)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *Pump) saveCursor() error {
	if p.cfg.Cursors == nil {
		return nil
	}
	return p.cfg.Cursors.Save(p.cfg.Stream.Cursor())
}

// lastHeard is when the stream last had a sign of life.
func lastHeard(st nozzle.Status) time.Time {
	if st.LastMessage.IsZero() {
		return st.Since
	}
	return st.LastMessage
}

// Health returns nil when envelopes can move, else why not: there is no
// connection, and nothing was heard for DeadAfter, or the sink refuses what it
// was given. A connection on which nothing comes, not even heartbeats, is given
// up by the stream. Health may be called concurrently.
func (p *Pump) Health() error {
	var errs []error
	if st := p.cfg.Stream.Status(); !st.Connected {
		if quiet := time.Since(lastHeard(st)); quiet >= p.cfg.DeadAfter {
			errs = append(errs, fmt.Errorf("nothing heard of the Firehose for %s", quiet.Round(time.Second)))
			if st.Err != nil {
				errs = append(errs, st.Err)
			}
		}
	}
	if f := p.failing.Load(); f != nil {
		errs = append(errs, fmt.Errorf("sink has failed for %s: %w", time.Since(f.since).Round(time.Second), f.err))
	}
	return errors.Join(errs...)
}
