package soak

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

const (
	rate = 4_000 // envelopes per second, in all
	// allVisits is how many clients come, or fewer when there is less time than
	// they need.
	allVisits = 50_000
	allNeed   = 5 * time.Minute
	// mostChange is how much the memory may differ between the second and the
	// last quarter; leastChange is what no process of this size can be held to.
	mostChange  = 0.05
	leastChange = 2 << 20
)

// length is how long the visitors come.
func length(t *testing.T) time.Duration {
	text := os.Getenv("LGR_SOAK")
	if text == "" {
		return 2 * time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("LGR_SOAK: %v", err)
	}
	return d
}

// readers are those that stay.
type readers struct {
	firehose, acking *load.Reader
	tails            []*load.Reader
}

func openReaders(ctx context.Context, t *testing.T, p *pipeline.Pipeline, plan load.Plan) *readers {
	t.Helper()
	n := len(p.Dopplers)
	r := &readers{
		firehose: blackbox.Firehose(ctx, t, n, load.ReaderConfig{URL: p.URL(0), Subscription: "stays"}),
		acking:   blackbox.Firehose(ctx, t, n, load.ReaderConfig{URL: p.URL(0), Subscription: "stays-and-acks", Ack: true}),
	}
	for source := range 3 {
		r.tails = append(r.tails, blackbox.Read(ctx, t, load.ReaderConfig{
			URL: p.URL(0), SourceID: plan.SourceID(source), Source: source,
		}))
	}
	return r
}

// account checks that all of them have everything, or were told to the envelope
// what not: on a machine that has no time for them they may be too slow.
func (r *readers) account(ctx context.Context, t *testing.T, senders []*load.Sender, sent uint64) {
	t.Helper()
	accounts(ctx, t, "Firehose", r.firehose, sent)
	accounts(ctx, t, "Firehose that acks", r.acking, sent)
	for source, tail := range r.tails {
		n := uint64(0)
		for _, s := range senders {
			n += s.Sent(source)
		}
		accounts(ctx, t, "tail", tail, n)
	}
}

func accounts(ctx context.Context, t *testing.T, name string, r *load.Reader, n uint64) {
	t.Helper()
	blackbox.Until(ctx, t, r, "account for all", func(a load.Account, _ map[string]load.Place) bool {
		return a.Received+a.Exact >= n
	})
	a := r.Account()
	fmt.Printf("%-20s received %d + told as gaps %d = sent %d\n", name, a.Received, a.Exact, n)
	if a.Received+a.Exact != n || a.Repeated+a.Foreign+a.Others+a.AtLeast+a.Unknown != 0 {
		t.Errorf("%s: received %d of %d, missing %d, repeated %d, foreign %d, others %d, gaps %d exact (%v), %d at least, %d unknown",
			name, a.Received, n, a.Missing, a.Repeated, a.Foreign, a.Others, a.Exact, a.GapReasons, a.AtLeast, a.Unknown)
	}
}

// TestSoak lets 50,000 clients come and go.
func TestSoak(t *testing.T) {
	d := length(t)
	ctx, cancel := context.WithTimeout(t.Context(), d+4*time.Minute)
	defer cancel()
	p := blackbox.Start(t, pipeline.Config{
		Dopplers: 2, Controllers: 1,
		DopplerArgs: []string{"--ring-bytes", "32MiB", "--recent-bytes", "8MiB", "--linger", "10s", "--window-bytes", "256KiB"},
	})
	plan := load.Plan{Shape: load.Reference, Sources: 50, Batch: 10}
	stay := openReaders(ctx, t, p, plan)

	senders := blackbox.NewSenders(len(p.Dopplers))
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	sent := make(chan uint64, 1)
	go func() {
		sent <- blackbox.Send(sending, t, senders, p.Dopplers, blackbox.Sending{Plan: plan, Rate: rate / float64(len(senders))})
	}()

	blackbox.Poll(ctx, t, "the rings to be full", func() bool {
		return !slices.ContainsFunc(p.Dopplers, func(s *pipeline.Service) bool {
			return blackbox.Metric(ctx, t, s, "doppler_ring_evicted_total") == 0
		})
	})
	var all meters
	for _, s := range slices.Concat(p.Dopplers, p.Controllers) {
		all = append(all, &meter{service: s, baseline: measure(ctx, t, s)})
	}
	var measuring sync.WaitGroup
	metering, stopMetering := context.WithCancel(ctx)
	measuring.Go(func() { all.run(metering, t) })

	visits := int(min(1, float64(d)/float64(allNeed)) * allVisits)
	visitors := newChurn(p.Controllers[0].Addrs[pipeline.Public], plan)
	visitors.run(ctx, t, visits, d)
	stopMetering()
	measuring.Wait()
	if n := visitors.total(); n != uint64(visits) {
		t.Errorf("%d visits, not %d", n, visits)
	}
	all.settle(ctx, t)
	fmt.Printf("%d visits in %v, %d envelopes/s\n%s", visitors.total(), d, rate, all.table(ctx, t))
	if d >= allNeed {
		all.flat(t)
	} else {
		fmt.Printf("memory is not judged in less than %v: it still warms up\n", allNeed)
	}
	stopSending()
	stay.account(ctx, t, senders, <-sent)
}

// settle waits until nothing is left of the visitors.
func (all meters) settle(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, m := range all {
		var now sample
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s: %+v before the visitors, %+v after them", m.service.Name, m.baseline, now)
			}
		})
		blackbox.Poll(ctx, t, m.service.Name+" to have as many goroutines and descriptors as before", func() bool {
			now = measure(ctx, t, m.service)
			return now.goroutines <= m.baseline.goroutines && now.descriptors <= m.baseline.descriptors
		})
		cancel()
	}
}

// flat checks that memory has not grown.
func (all meters) flat(t *testing.T) {
	t.Helper()
	for _, m := range all {
		a, b := m.window(1, 2).resident, m.window(3, 4).resident
		if c := change(a, b); b-a > leastChange && c > mostChange {
			t.Errorf("%s took %.1f MiB, then %.1f MiB: %+.1f %%", m.service.Name, float64(a)/mebi, float64(b)/mebi, 100*c)
		}
	}
}
