// Package demo plays a small platform: a few apps that take requests, log,
// measure themselves and now and then fail, at a rate people can read.
package demo

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// DefaultRate is how many requests come per second, over all apps.
const DefaultRate = 3

const (
	step            = 100 * time.Millisecond
	metricsInterval = 5 * time.Second
)

// Town is the platform. Its life depends on nothing but the seed and the times
// it is given; it is not for concurrent use.
type Town struct {
	rate        float64
	rand        *rand.Rand
	apps        []*app
	worker      *worker
	now         time.Time
	nextMetrics time.Time
	pending     []*loggregatorv2.Envelope // in the future still
}

// NewTown starts a platform at a moment. rate is in requests per second, over
// all apps; DefaultRate if not positive.
func NewTown(rate float64, seed uint64, now time.Time) *Town {
	if rate <= 0 {
		rate = DefaultRate
	}
	t := &Town{
		rate:        rate,
		rand:        rand.New(rand.NewPCG(seed, 1)),
		now:         now,
		nextMetrics: now.Add(time.Second),
	}
	t.apps = []*app{newApp("shop", 2, shopPages, 0.6), newApp("api", 3, apiCalls, 0.4)}
	t.worker = newWorker("worker")
	return t
}

// Sources are the source ids of the apps.
func (t *Town) Sources() []string {
	ids := []string{}
	for _, a := range t.apps {
		ids = append(ids, a.id)
	}
	return append(ids, t.worker.id)
}

// Run lets the platform live in real time until ctx ends, which is no error;
// the errors are those of send.
func (t *Town) Run(ctx context.Context, send func(*loggregatorv2.Envelope) error) error {
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			for _, e := range t.Advance(now) {
				if err := send(e); err != nil {
					return fmt.Errorf("send the demo apps' envelopes: %w", err)
				}
			}
		}
	}
}

// Advance returns what was emitted up to now, oldest first.
func (t *Town) Advance(now time.Time) []*loggregatorv2.Envelope {
	requests := t.poisson(t.rate * now.Sub(t.now).Seconds())
	for range requests {
		at := t.now.Add(time.Duration(t.rand.Float64() * float64(now.Sub(t.now))))
		t.pending = append(t.pending, t.pick().request(t.rand, at)...)
	}
	t.pending = append(t.pending, t.worker.advance(t.rand, t.now, now)...)
	for !t.nextMetrics.After(now) {
		t.pending = append(t.pending, t.metrics(t.nextMetrics)...)
		t.nextMetrics = t.nextMetrics.Add(metricsInterval)
	}
	t.now = now
	slices.SortStableFunc(t.pending, func(a, b *loggregatorv2.Envelope) int {
		return cmp.Compare(a.GetTimestamp(), b.GetTimestamp())
	})
	due, _ := slices.BinarySearchFunc(t.pending, now.UnixNano()+1, func(e *loggregatorv2.Envelope, at int64) int {
		return cmp.Compare(e.GetTimestamp(), at)
	})
	out := t.pending[:due:due]
	t.pending = slices.Clone(t.pending[due:])
	return out
}

func (t *Town) pick() *app {
	x := t.rand.Float64()
	for _, a := range t.apps {
		if x -= a.share; x < 0 {
			return a
		}
	}
	return t.apps[0]
}

// poisson draws how many things happen when mean are expected.
func (t *Town) poisson(mean float64) int {
	n := 0
	for left := mean - t.rand.ExpFloat64(); left > 0; left -= t.rand.ExpFloat64() {
		n++
	}
	return n
}

func (t *Town) metrics(at time.Time) []*loggregatorv2.Envelope {
	var out []*loggregatorv2.Envelope
	for _, a := range t.apps {
		out = append(out, a.metrics(t.rand, at)...)
	}
	return append(out, t.worker.metrics(t.rand, at))
}
