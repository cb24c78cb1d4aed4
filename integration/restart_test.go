package integration

import (
	"net/url"
	"path/filepath"
	"testing"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// TestRestartedDopplerLosesNothing restarts a Doppler by SIGTERM right after it
// has confirmed envelopes, and once more.
func TestRestartedDopplerLosesNothing(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 2, Controllers: 1})
	plan := load.Plan{Shape: load.Reference, Sources: 10, Batch: 100}
	reader := firehose(ctx, t, 2, load.ReaderConfig{URL: p.URL(0), Subscription: "stays", Ack: true})
	tail := read(ctx, t, load.ReaderConfig{
		URL: p.URL(0), SourceID: plan.SourceID(3), Source: 3, Query: url.Values{"recent": {"10000"}},
	})
	senders := newSenders(2)
	sent := uint64(0)
	for range 3 {
		sent += send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 20_000})
		d := p.Dopplers[0]
		if code, err := d.Stop(ctx); err != nil || code != 0 {
			t.Fatalf("Doppler ended with code %d, %v: %s", code, err, d.Log())
		}
		if err := p.Restart(ctx, d); err != nil {
			t.Fatal(err)
		}
		poll(ctx, t, "the readers to be back", func() bool {
			return members(ctx, t, d, "stays") == 1 && links(ctx, t, d) == 1
		})
	}
	sent += send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 20_000})
	complete(ctx, t, "Firehose", reader, sent)
	complete(ctx, t, "tail", tail, senders[0].Sent(3)+senders[1].Sent(3))
}

// TestCrashedDopplerIsToldAsAGap kills a Doppler: what it held is gone, and
// readers are told so, without a number.
func TestCrashedDopplerIsToldAsAGap(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	plan := load.Plan{Shape: load.Reference, Sources: 10, Batch: 100}
	reader := firehose(ctx, t, 1, load.ReaderConfig{URL: p.URL(0), Subscription: "stays", Ack: true})
	senders := newSenders(1)
	complete(ctx, t, "before", reader, send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 1000}))
	p.Dopplers[0].Kill()
	if err := p.Restart(ctx, p.Dopplers[0]); err != nil {
		t.Fatal(err)
	}
	sent := 1000 + send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 1000})
	until(ctx, t, reader, "receive all of the new epoch", func(a load.Account, _ map[string]load.Place) bool {
		return a.Received >= sent
	})
	if a := reader.Account(); a.Received != sent || a.Unknown != 1 || a.Exact+a.AtLeast != 0 || a.Repeated != 0 {
		t.Errorf("received %d of %d, repeated %d; gaps: %d unknown, %d exact, %d at least; want one unknown",
			a.Received, sent, a.Repeated, a.Unknown, a.Exact, a.AtLeast)
	}
}

// TestDopplerFoundLateLosesNothing has a Doppler that takes envelopes in before
// any Traffic Controller has heard of it.
func TestDopplerFoundLateLosesNothing(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{
		Dopplers: 1, Controllers: 1, Peers: filepath.Join(t.TempDir(), "dopplers"),
		ControllerArgs: []string{"--resolve-interval", "1s"},
	})
	plan := load.Plan{Shape: load.Reference, Sources: 10, Batch: 100}
	reader := firehose(ctx, t, 1, load.ReaderConfig{URL: p.URL(0), Subscription: "waits", Ack: true})
	tail := read(ctx, t, load.ReaderConfig{
		URL: p.URL(0), SourceID: plan.SourceID(3), Source: 3, Query: url.Values{"recent": {"10000"}},
	})
	late, err := p.AddDoppler(ctx)
	if err != nil {
		t.Fatal(err)
	}
	senders := newSenders(2)
	// Sender 1 sends to the Doppler that nobody reads yet.
	sent := send(ctx, t, senders[1:], []*pipeline.Service{late}, sending{Plan: plan, Count: 5000})
	if err := p.WritePeers(); err != nil {
		t.Fatal(err)
	}
	sent += send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 5000})
	complete(ctx, t, "Firehose", reader, sent)
	complete(ctx, t, "tail", tail, senders[0].Sent(3)+senders[1].Sent(3))
}
