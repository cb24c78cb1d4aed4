package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/process"
	"github.com/a1ea6966/loggregator/integration/worker"
)

// Result is one measurement.
type Result struct {
	// Name of the measurement, and what was special about it.
	Name, Note string
	// Offered is the rate asked of the senders, 0 for all they can.
	Offered float64
	// Sent is what the Dopplers confirmed, and SentRate that per second.
	Sent     uint64
	SentRate float64
	// Per reader that should get everything: Delivered is the fewest one
	// received, DeliveredRate that per second until the last one arrived.
	Delivered     uint64
	DeliveredRate float64
	MegabytesRate float64
	// Lost is what such readers did not receive, Told how much of that they
	// were told in exact gaps, Duplicates what came twice; summed up. An
	// envelope whose ack came after the ring had let go of it is told too: Late
	// counts these, where the readers keep track.
	Lost, Told, Late, Duplicates int64
	// Drain is how long after the last envelope was sent the last one arrived.
	Drain time.Duration
	// Latency by label of the readers.
	Latency map[string]Latency
	// Processes in the order of the way of an envelope.
	Processes []Process
	// PerSecond is how many envelopes were delivered in each second.
	PerSecond []uint64 `json:",omitempty"`
}

// Latency is from an envelope's timestamp to its arrival at a reader.
type Latency struct {
	P50, P90, P99, P999, Max time.Duration
	Count                    uint64
}

// Process is what one process took.
type Process struct {
	Name string
	// NanosPerEnvelope is CPU time per envelope sent.
	NanosPerEnvelope float64
	// Cores is CPU time per time.
	Cores float64
	// Resident and Peak are bytes of memory at the end and at most.
	Resident, Peak int64
}

const (
	poll = 50 * time.Millisecond
	// idleEnd is how long nothing may arrive for a run to be over.
	idleEnd = 2 * time.Second
)

// measure sends, waits until everything has arrived or nothing more does, and
// says what it took. Readers have to be open.
func (b *Bench) measure(ctx context.Context, name string, runs ...worker.SendParams) (Result, error) {
	result := Result{Name: name}
	for _, run := range runs {
		result.Offered += run.Rate
	}
	if err := b.resetPeaks(); err != nil {
		return result, err
	}
	before, err := b.totals(ctx, worker.TotalsParams{Latency: true, Reset: true})
	if err != nil {
		return result, err
	}
	usage, err := b.usages()
	if err != nil {
		return result, err
	}
	start := time.Now()
	var sent load.Sent
	done := make(chan error, 1)
	go func() {
		var err error
		sent, err = b.send(ctx, runs)
		done <- err
	}()
	if result.PerSecond, err = b.watch(ctx, before, done); err != nil {
		return result, err
	}
	end := start.Add(sent.Elapsed)
	arrived, err := b.drain(ctx, before, sent.Envelopes)
	if err != nil {
		return result, err
	}
	result.Drain = max(0, arrived.Sub(end))
	after, err := b.totals(ctx, worker.TotalsParams{Latency: true})
	if err != nil {
		return result, err
	}
	result.count(b.full, before, after, sent, arrived.Sub(start))
	return result, b.charge(&result, usage, time.Since(start))
}

// watch waits for the senders and notes what arrives each second.
func (b *Bench) watch(ctx context.Context, before map[string]worker.Total, done <-chan error) ([]uint64, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var seconds []uint64
	last := b.least(before, before)
	for {
		select {
		case err := <-done:
			return seconds, err
		case <-tick.C:
			now, err := b.totals(ctx, worker.TotalsParams{})
			if err != nil {
				return seconds, err
			}
			n := b.least(before, now)
			seconds = append(seconds, n-last)
			last = n
		}
	}
}

// least is the fewest envelopes a full reader has received since.
func (b *Bench) least(before, now map[string]worker.Total) uint64 {
	least := uint64(0)
	for i, label := range b.full {
		if n := now[label].Least - before[label].Least; i == 0 || n < least {
			least = n
		}
	}
	return least
}

// drain waits until all readers have settled for what was sent, and returns
// when the last envelope arrived.
func (b *Bench) drain(ctx context.Context, before map[string]worker.Total, sent uint64) (time.Time, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	arrived, last := time.Now(), uint64(0)
	for {
		now, err := b.totals(ctx, worker.TotalsParams{})
		if err != nil {
			return arrived, err
		}
		settled, sum := true, uint64(0)
		for _, label := range b.full {
			t := now[label]
			got := t.Received - t.Repeated - (before[label].Received - before[label].Repeated)
			settled = settled && got >= sent*uint64(t.Readers)
		}
		for label, t := range now {
			if len(t.Ended) > 0 {
				return arrived, fmt.Errorf("a reader of %q ended: %s", label, t.Ended[0])
			}
			sum += t.Received
		}
		if sum != last {
			arrived, last = time.Now(), sum
		}
		if settled && len(b.full) > 0 || time.Since(arrived) > idleEnd {
			return arrived, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return arrived, ctx.Err()
		}
	}
}

func (r *Result) count(full []string, before, after map[string]worker.Total, sent load.Sent, took time.Duration) {
	r.Sent, r.SentRate = sent.Envelopes, float64(sent.Envelopes)/sent.Elapsed.Seconds()
	r.MegabytesRate = float64(sent.Bytes) / sent.Elapsed.Seconds() / 1e6
	r.Latency = make(map[string]Latency)
	for i, label := range full {
		a, z := before[label], after[label]
		delivered := z.Least - a.Least
		if i == 0 || delivered < r.Delivered {
			r.Delivered = delivered
		}
		fresh := z.Received - z.Repeated - (a.Received - a.Repeated)
		r.Lost += int64(sent.Envelopes*uint64(z.Readers) - fresh)
		r.Told += int64(z.Exact - a.Exact)
		r.Late += int64(z.Late - a.Late)
		r.Duplicates += int64(z.Repeated - a.Repeated)
	}
	r.DeliveredRate = float64(r.Delivered) / took.Seconds()
	for label, t := range after {
		if n := t.Latency.Count(); n > 0 {
			q := t.Latency.Quantile
			r.Latency[label] = Latency{P50: q(.5), P90: q(.9), P99: q(.99), P999: q(.999), Max: t.Latency.Max(), Count: n}
		}
	}
}

func (b *Bench) charge(r *Result, before []process.Usage, took time.Duration) error {
	after, err := b.usages()
	if err != nil {
		return err
	}
	for i, w := range b.watched {
		u := after[i].Sub(before[i])
		p := Process{Name: w.name, Cores: u.CPU.Seconds() / took.Seconds(), Resident: u.Resident, Peak: u.Peak}
		if r.Sent > 0 {
			p.NanosPerEnvelope = float64(u.CPU.Nanoseconds()) / float64(r.Sent)
		}
		r.Processes = append(r.Processes, p)
	}
	return nil
}
