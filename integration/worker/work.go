package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// Methods of a worker.
const (
	// Send makes its senders send: []SendParams, all at the same time, and
	// load.Sent. It answers when all are done.
	Send = "send"
	// Open opens readers: OpenParams, OpenResult.
	Open = "open"
	// Totals is what the readers of each label got: TotalsParams,
	// map[string]Total.
	Totals = "totals"
	// Close ends all readers of a label: a string, nothing.
	Close = "close"
)

// SendParams is a run shared by several senders.
type SendParams struct {
	load.Plan
	// So many senders, numbered from Number on, share the rate and the count,
	// and go to the addresses in turn.
	Number, Senders int
	Addrs           []string
	Certs           string
	Rate            float64
	For             time.Duration
	Count           uint64
}

// OpenParams are readers to open, at most Parallel at once.
type OpenParams struct {
	Label    string
	Readers  []load.ReaderConfig
	Certs    string
	Parallel int
}

// OpenResult says how long it took until all readers had their hello.
type OpenResult struct{ Took time.Duration }

// TotalsParams says what to do besides adding up.
type TotalsParams struct {
	// Latency asks for the latencies too, which is dear with many readers;
	// with Reset they begin anew.
	Latency, Reset bool
}

// Total is the sum over the readers of one label.
type Total struct {
	Readers int
	// Least and Most are the fewest and most envelopes one reader received.
	Received, Least, Most                uint64
	Others, Missing, Repeated, Foreign   uint64
	Exact, AtLeast, Unknown, Redelivered uint64
	Late                                 uint64
	Batches                              uint64
	Latency                              load.Histogram
	// Ended says why readers ended that nobody closed.
	Ended []string
}

// work is the state of a worker process.
type work struct {
	ctx     context.Context
	senders []*load.Sender
	running sync.WaitGroup
	readers map[string][]*reading
}

// reader is a load.Reader or a load.Counter.
type reader interface {
	Run(ctx context.Context) error
	Account() load.Account
	Latency(reset bool) *load.Histogram
	Close() error
}

func openReader(ctx context.Context, conf load.ReaderConfig) (reader, error) {
	if conf.Old {
		return load.OpenCounter(ctx, conf)
	}
	return load.OpenReader(ctx, conf)
}

type reading struct {
	reader
	mu    sync.Mutex
	ended error
}

func (w *work) wait() {
	for label := range w.readers {
		w.close(label)
	}
	w.running.Wait()
}

func (w *work) handle(r request) (any, error) {
	switch r.Method {
	case Send:
		return handle(r.Params, w.send)
	case Open:
		return handle(r.Params, w.open)
	case Totals:
		return handle(r.Params, w.totals)
	case Close:
		return handle(r.Params, func(label string) (any, error) {
			w.close(label)
			return nil, nil
		})
	}
	return nil, fmt.Errorf("no method %q", r.Method)
}

func handle[P, R any](params json.RawMessage, do func(P) (R, error)) (any, error) {
	var p P
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	return do(p)
}

func (w *work) send(params []SendParams) (load.Sent, error) {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		total load.Sent
		errs  []error
	)
	for _, p := range params {
		secure, err := pipeline.IngressTLS(p.Certs)
		if err != nil {
			return total, err
		}
		for i, sender := range w.numbered(p.Number, p.Senders) {
			run := load.Run{
				Plan: p.Plan, Addr: p.Addrs[i%len(p.Addrs)], TLS: secure,
				Rate: p.Rate / float64(p.Senders), For: p.For, Count: p.Count / uint64(p.Senders),
			}
			all.Go(func() {
				sent, err := sender.Run(w.ctx, run)
				mu.Lock()
				defer mu.Unlock()
				total.Envelopes += sent.Envelopes
				total.Bytes += sent.Bytes
				total.Elapsed = max(total.Elapsed, sent.Elapsed)
				errs = append(errs, err)
			})
		}
	}
	all.Wait()
	return total, errors.Join(errs...)
}

// numbered returns n senders, which keep their counts from run to run.
func (w *work) numbered(first, n int) []*load.Sender {
	for len(w.senders) < first+n {
		w.senders = append(w.senders, load.NewSender(len(w.senders)))
	}
	return w.senders[first : first+n]
}

func (w *work) open(p OpenParams) (OpenResult, error) {
	secure, err := pipeline.ReaderTLS(p.Certs)
	if err != nil {
		return OpenResult{}, err
	}
	opened := make([]*reading, len(p.Readers))
	errs := make([]error, len(p.Readers))
	slots := make(chan struct{}, max(1, p.Parallel))
	var all sync.WaitGroup
	start := time.Now()
	for i, conf := range p.Readers {
		slots <- struct{}{}
		conf.TLS = secure
		all.Go(func() {
			defer func() { <-slots }()
			r, err := openReader(w.ctx, conf)
			if opened[i], errs[i] = (&reading{reader: r}), err; err != nil {
				opened[i] = nil
			}
		})
	}
	all.Wait()
	result := OpenResult{Took: time.Since(start)}
	for _, r := range opened {
		if r != nil {
			w.readers[p.Label] = append(w.readers[p.Label], r)
			w.running.Go(func() { r.run(w.ctx) })
		}
	}
	return result, errors.Join(errs...)
}

func (r *reading) run(ctx context.Context) {
	err := r.Run(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = err
}

func (w *work) totals(p TotalsParams) (map[string]*Total, error) {
	totals := make(map[string]*Total)
	for label, readers := range w.readers {
		t := &Total{Least: math.MaxUint64}
		for _, r := range readers {
			t.add(r, p)
		}
		totals[label] = t
	}
	return totals, nil
}

func (t *Total) add(r *reading, p TotalsParams) {
	a := r.Account()
	t.Readers++
	t.Received += a.Received
	t.Least, t.Most = min(t.Least, a.Received), max(t.Most, a.Received)
	t.Others += a.Others
	t.Missing += a.Missing
	t.Repeated += a.Repeated
	t.Foreign += a.Foreign
	t.Exact += a.Exact
	t.AtLeast += a.AtLeast
	t.Unknown += a.Unknown
	t.Redelivered += a.Redelivered
	t.Batches += a.Batches
	t.Late += a.Late
	if p.Latency {
		if latency := r.Latency(p.Reset); latency != nil {
			t.Latency.Merge(latency)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		t.Ended = append(t.Ended, r.ended.Error())
	}
}

func (w *work) close(label string) {
	var all sync.WaitGroup
	for _, r := range w.readers[label] {
		all.Go(func() { _ = r.Close() }) // the server may be gone
	}
	all.Wait()
	delete(w.readers, label)
}
