package integration

import (
	"context"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// client is a reader that uses the SDK, and that comes back with its cursor.
type client struct {
	open   func(context.Context, nozzle.Config) (*nozzle.Stream, error)
	conf   nozzle.Config
	ledger load.Ledger
	gaps   []*streampb.Gap
	stream *nozzle.Stream
}

func (c *client) come(ctx context.Context, t *testing.T) {
	t.Helper()
	connected := make(chan struct{}, 16)
	c.conf.Notify = func(n nozzle.Notice) {
		if n.Kind == nozzle.Connected {
			connected <- struct{}{}
		}
	}
	var err error
	if c.stream, err = c.open(context.WithoutCancel(ctx), c.conf); err != nil {
		t.Fatal(err)
	}
	select {
	case <-connected:
	case <-ctx.Done():
		t.Fatal("the SDK did not connect")
	}
}

// leave ends the connection and keeps the cursor.
func (c *client) leave(t *testing.T) {
	t.Helper()
	if err := c.stream.Close(); err != nil {
		t.Fatal(err)
	}
	c.conf.Cursor = c.stream.Cursor()
	if c.conf.Cursor == "" {
		t.Fatal("the reader has no cursor")
	}
}

// accounted reads until received and told make up n.
func (c *client) accounted(ctx context.Context, t *testing.T, n uint64) {
	t.Helper()
	for c.ledger.Received+c.told() < n {
		batch, err := c.stream.Recv(ctx)
		if err != nil {
			t.Fatalf("received %d, told %d of %d: %v", c.ledger.Received, c.told(), n, err)
		}
		c.gaps = append(c.gaps, batch.Gaps...)
		c.ledger.Add(batch.Envelopes, time.Now())
		batch.Ack()
		batch.Release()
	}
}

// told is how many envelopes the gaps are about.
func (c *client) told() (sum uint64) {
	for _, gap := range c.gaps {
		sum += gap.GetCount()
	}
	return sum
}

// TestReaderThatWasAway has a tail and a nozzle that leave and come back: first
// while the ring holds everything, then after it has turned over.
func TestReaderThatWasAway(t *testing.T) {
	plan := load.Plan{Shape: load.Reference, Sources: 4, Batch: 100}
	tests := map[string]struct {
		open func(context.Context, nozzle.Config) (*nozzle.Stream, error)
		conf nozzle.Config
		only int
	}{
		"tail":     {nozzle.Tail, nozzle.Config{Source: plan.SourceID(1), Recent: 1000}, 1},
		"firehose": {nozzle.Open, nozzle.Config{Subscription: "goes-away", Types: []string{"log"}}, load.AnySource},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t)
			p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1,
				// No recent store, which would fill a part of the tail's gap.
				DopplerArgs: []string{"--ring-bytes", "64MiB", "--recent-logs", "0"}})
			c := &client{open: test.open, conf: test.conf, ledger: load.Ledger{Only: test.only}}
			c.conf.Addr = p.URL(0)
			senders := newSenders(1)
			expected := func(n uint64) uint64 {
				send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: n})
				sum := uint64(0)
				for source := range plan.Sources {
					if test.only == load.AnySource || test.only == source {
						sum += senders[0].Sent(source)
					}
				}
				return sum
			}
			c.come(ctx, t)
			if test.only == load.AnySource {
				poll(ctx, t, "the member at the Doppler", func() bool { return members(ctx, t, p.Dopplers[0], "goes-away") == 1 })
			}
			// The Doppler has to know too: what it hands to a member that is
			// leaving is told as a gap of its own.
			leave := func() {
				c.leave(t)
				poll(ctx, t, "the member to be gone", func() bool { return members(ctx, t, p.Dopplers[0], "goes-away") == 0 })
			}
			c.accounted(ctx, t, expected(1000))
			leave()
			meanwhile := expected(20_000)
			c.come(ctx, t)
			c.accounted(ctx, t, meanwhile)
			c.accounted(ctx, t, expected(1000))
			if l := c.ledger; l.Missing+l.Repeated+l.Foreign != 0 || len(c.gaps) != 0 {
				t.Fatalf("away while the ring held everything: missing %d, repeated %d, foreign %d, gaps %v",
					l.Missing, l.Repeated, l.Foreign, c.gaps)
			}

			leave()
			meanwhile = expected(400_000)
			c.come(ctx, t)
			c.accounted(ctx, t, meanwhile)
			c.accounted(ctx, t, expected(1000))
			defer c.leave(t)
			l := c.ledger
			if len(c.gaps) != 1 || c.gaps[0].GetPrecision() != streampb.Gap_EXACT || c.told() != l.Missing || l.Missing == 0 {
				t.Errorf("away for longer than the ring holds: missing %d, told %v, want one exact gap", l.Missing, c.gaps)
			}
			if l.Repeated+l.Foreign != 0 {
				t.Errorf("repeated %d, foreign %d", l.Repeated, l.Foreign)
			}
		})
	}
}
