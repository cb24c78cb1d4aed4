package integration

import (
	"testing"

	"net/url"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// budgets of a pipeline with small rings: what the flags allow, and what the
// programs and the runtime need beside.
const (
	ringBytes   = 64 << 20
	recentBytes = 16 << 20
	beside      = 160 << 20
)

// overload is what is sent past a reader that does not read: several times what
// the ring holds.
func overload() sending {
	s := sending{Plan: load.Plan{Shape: load.Reference, Sources: 100, Batch: 100}, Count: 400_000, Rate: 50_000}
	if full {
		s.Count, s.Rate = 200_000*20, 200_000
	}
	return s
}

// checkMemory checks that no service took more than its budget at any time.
func checkMemory(t *testing.T, p *pipeline.Pipeline) {
	t.Helper()
	for budget, services := range map[int64][]*pipeline.Service{
		ringBytes + recentBytes + beside: p.Dopplers,
		beside:                           p.Controllers,
	} {
		for _, s := range services {
			usage, err := s.Usage()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s took at most %d MiB", s.Name, usage.Peak>>20)
			if usage.Peak > budget && !blackbox.Race {
				t.Errorf("%s took %d MiB at its peak, the budget is %d MiB", s.Name, usage.Peak>>20, budget>>20)
			}
		}
	}
}

func TestStalledFirehoseReaderIsToldWhatItMissed(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1, DopplerArgs: []string{"--ring-bytes", "64MiB"}})
	other := firehose(ctx, t, 1, load.ReaderConfig{URL: p.URL(0), Subscription: "reads", Query: url.Values{"type": {"log"}}})
	stalled := firehose(ctx, t, 1, load.ReaderConfig{URL: p.URL(0), Subscription: "stalls", Ack: true, Track: true, Query: url.Values{"type": {"log"}}})
	senders := newSenders(1)
	before := send(ctx, t, senders, p.Dopplers, sending{Plan: overload().Plan, Count: 1000})
	complete(ctx, t, "before it stalls", stalled, before)
	stalled.Pause()
	sent := before + send(ctx, t, senders, p.Dopplers, overload())
	complete(ctx, t, "the other reader", other, sent)
	checkMemory(t, p)
	if err := stalled.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	checkAccount(t, sent, untilAccounted(ctx, t, stalled, sent))
	if accepted := uint64(metric(ctx, t, p.Dopplers[0], "doppler_ingress_envelopes_total")); accepted != sent {
		t.Errorf("the Doppler says it accepted %d, sent were %d", accepted, sent)
	}
}

func TestStalledTailIsToldWhatItMissed(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1, DopplerArgs: []string{"--ring-bytes", "64MiB"}})
	plan := load.Plan{Shape: load.Reference, Sources: 2, Batch: 100}
	open := func(source int) *load.Reader {
		return read(ctx, t, load.ReaderConfig{URL: p.URL(0), SourceID: plan.SourceID(source), Source: source, Query: url.Values{"recent": {"1000"}}})
	}
	same, different, stalled := open(0), open(1), open(0)
	senders := newSenders(1)
	send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 1000})
	complete(ctx, t, "before it stalls", stalled, senders[0].Sent(0))
	stalled.Pause()
	load := overload()
	load.Plan, load.Rate = plan, load.Rate/5
	load.Count /= 5
	send(ctx, t, senders, p.Dopplers, load)
	complete(ctx, t, "another tail of the app", same, senders[0].Sent(0))
	complete(ctx, t, "a tail of another app", different, senders[0].Sent(1))
	checkMemory(t, p)
	if err := stalled.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	sent := senders[0].Sent(0)
	checkAccount(t, sent, untilAccounted(ctx, t, stalled, sent))
}
