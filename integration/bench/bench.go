// Package bench measures the whole pipeline: it starts the real programs,
// loads them from worker processes, and reports what came through, what it
// cost and how long it took. Whether a number is good enough is for people to
// say; nothing here fails because a machine is slow.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
	"github.com/a1ea6966/loggregator/integration/worker"
)

// Setup is what is started for a measurement.
type Setup struct {
	// Binaries hold Doppler, Traffic Controller and the load tool.
	Binaries process.Binaries
	// Certs is a directory of certificates; empty means plaintext.
	Certs                 string
	Dopplers, Controllers int
	DopplerArgs           []string
	Old                   bool // framing of Firehose readers
	// Log gets what the services log, if not nil.
	Log io.Writer
}

// Bench is a running pipeline with its workers.
type Bench struct {
	setup    Setup
	pipeline *pipeline.Pipeline
	sending  *worker.Worker
	reading  *worker.Worker
	// watched are all processes, in the order of the report.
	watched []watched
	full    []string // labels whose readers get every envelope
}

type watched struct {
	name string
	*process.Process
}

// Start starts everything; Stop ends it.
func Start(ctx context.Context, s Setup) (*Bench, error) {
	b := &Bench{setup: s}
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(err, b.Stop(ctx))
	}
	return b, nil
}

func (b *Bench) start(ctx context.Context) (err error) {
	s := b.setup
	b.pipeline, err = pipeline.Start(ctx, pipeline.Config{
		Binaries: s.Binaries, Dopplers: s.Dopplers, Controllers: s.Controllers,
		DopplerArgs: s.DopplerArgs, Certs: s.Certs, Log: s.Log,
	})
	if err != nil {
		return err
	}
	if b.sending, err = worker.Start(s.Binaries.Path(process.LoadTool)); err != nil {
		return err
	}
	if b.reading, err = worker.Start(s.Binaries.Path(process.LoadTool)); err != nil {
		return err
	}
	for _, service := range slices.Concat(b.pipeline.Dopplers, b.pipeline.Controllers) {
		b.watched = append(b.watched, watched{service.Name, service.Process})
	}
	b.watched = append(b.watched, watched{"(senders)", b.sending.Process}, watched{"(readers)", b.reading.Process})
	return nil
}

// Stop ends everything that runs.
func (b *Bench) Stop(ctx context.Context) error {
	var errs []error
	for _, w := range []*worker.Worker{b.sending, b.reading} {
		if w != nil {
			errs = append(errs, w.Stop(ctx))
		}
	}
	if b.pipeline != nil {
		errs = append(errs, b.pipeline.Stop(ctx))
	}
	return errors.Join(errs...)
}

// Labels of readers.
const (
	firehose = "firehose"
	tail     = "tail"
	busyTail = "tails of one app"
	idle     = "idle"
)

// openFirehoses opens n readers, each a subscription of its own and so with
// every envelope, at the Traffic Controllers in turn.
func (b *Bench) openFirehoses(ctx context.Context, n int, rate float64, query url.Values) error {
	var confs []load.ReaderConfig
	for i := range n {
		confs = append(confs, load.ReaderConfig{
			URL: b.url(i), Subscription: fmt.Sprintf("bench-%d", i), Rate: rate, Query: query,
			Direct: b.setup.Controllers == 0, Track: rate > 0, Old: b.setup.Old,
		})
	}
	b.full = append(b.full, firehose)
	_, err := b.open(ctx, firehose, confs)
	return err
}

// openTails opens a tail for each of n sources from first on, copies times.
func (b *Bench) openTails(ctx context.Context, label string, plan load.Plan, first, n, copies int) (time.Duration, error) {
	var confs []load.ReaderConfig
	for i := range n * copies {
		source := first + i%n
		confs = append(confs, load.ReaderConfig{URL: b.url(i), SourceID: plan.SourceID(source), Source: source})
	}
	return b.open(ctx, label, confs)
}

func (b *Bench) open(ctx context.Context, label string, confs []load.ReaderConfig) (time.Duration, error) {
	var opened worker.OpenResult
	err := b.reading.Call(ctx, worker.Open, worker.OpenParams{
		Label: label, Readers: confs, Certs: b.setup.Certs, Parallel: 64,
	}, &opened)
	return opened.Took, err
}

// url is of the Traffic Controllers in turn, or, without any, of the Doppler.
func (b *Bench) url(i int) string {
	if b.setup.Controllers == 0 {
		return "ws://" + b.pipeline.Dopplers[0].Addrs[pipeline.Stream]
	}
	return b.pipeline.URL(i % b.setup.Controllers)
}

func (b *Bench) totals(ctx context.Context, p worker.TotalsParams) (map[string]worker.Total, error) {
	var totals map[string]worker.Total
	err := b.reading.Call(ctx, worker.Totals, p, &totals)
	return totals, err
}

// send runs senders and blocks until they are done.
func (b *Bench) send(ctx context.Context, runs []worker.SendParams) (load.Sent, error) {
	var addrs []string
	for _, d := range b.pipeline.Dopplers {
		addrs = append(addrs, d.Addrs[pipeline.GRPC])
	}
	for i := range runs {
		runs[i].Addrs, runs[i].Certs = addrs, b.setup.Certs
	}
	var sent load.Sent
	err := b.sending.Call(ctx, worker.Send, runs, &sent)
	return sent, err
}

// usages reads what every process took.
func (b *Bench) usages() ([]process.Usage, error) {
	var all []process.Usage
	for _, w := range b.watched {
		u, err := w.Usage()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		all = append(all, u)
	}
	return all, nil
}

func (b *Bench) resetPeaks() error {
	for _, w := range b.watched {
		if err := w.ResetPeak(); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}
