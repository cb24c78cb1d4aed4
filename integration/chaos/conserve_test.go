package chaos

import (
	"context"
	"fmt"
	neturl "net/url"
	"strconv"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// conserved is a pipeline with small rings and a reader of every kind, each of
// which takes only so much.
type conserved struct {
	*pipeline.Pipeline
	plan    load.Plan
	senders []*load.Sender
	readers map[string]*load.Reader // by subscription
	tails   map[int]*load.Reader    // by source
	old     *oldReader
}

const (
	conserveSources = 20
	filteredSource  = 7
)

// startConserved starts readers that take so many envelopes per second of
// everything, or their share of it.
func startConserved(ctx context.Context, t *testing.T, rate float64) *conserved {
	t.Helper()
	c := &conserved{
		Pipeline: blackbox.Start(t, pipeline.Config{
			Dopplers: 2, Controllers: 1,
			DopplerArgs:    []string{"--ring-bytes", "8MiB", "--recent-logs", "0", "--window-bytes", "256KiB"},
			ControllerArgs: []string{"--socket-buffer-bytes", strconv.Itoa(socketBuffer), "--tail-queue-bytes", "256KiB"},
		}),
		plan:    load.Plan{Shape: load.Reference, Sources: conserveSources, Batch: 20},
		senders: blackbox.NewSenders(2), readers: make(map[string]*load.Reader), tails: make(map[int]*load.Reader),
	}
	for shard, conf := range map[string]load.ReaderConfig{
		"acks":   {Ack: true, Rate: rate},
		"auto":   {Rate: rate},
		"filter": {Ack: true, Rate: rate / conserveSources, Query: neturl.Values{"source_id": {c.plan.SourceID(filteredSource)}, "type": {"log"}}},
	} {
		conf.URL, conf.Subscription, conf.Track, conf.SocketBuffer = c.URL(0), shard, true, socketBuffer
		c.readers[shard] = blackbox.Firehose(ctx, t, 2, conf)
	}
	for source := range 2 {
		c.tails[source] = blackbox.Read(ctx, t, load.ReaderConfig{
			URL: c.URL(0), SourceID: c.plan.SourceID(source), Source: source, Track: true, SocketBuffer: socketBuffer,
			Rate: rate / conserveSources, Query: neturl.Values{"recent": {"10000"}},
		})
	}
	c.old = startOldAt(ctx, t, "old", c.URL(0)+"/firehose/old", rate)
	for _, d := range c.Dopplers {
		blackbox.Poll(ctx, t, "members at "+d.Name, func() bool { return blackbox.Members(ctx, t, d, "old") == 1 })
	}
	return c
}

// balance adds up what the Dopplers say of a subscription, and checks that the
// terms of each make up what it accepted.
func (c *conserved) balance(ctx context.Context, t *testing.T, shard string) (sum blackbox.Subscription) {
	t.Helper()
	for _, d := range c.Dopplers {
		for _, s := range blackbox.Subscriptions(ctx, t, d) {
			if s.Shard != shard {
				continue
			}
			if s.Accepted != s.Acked+s.Dropped+s.InFlight+s.Lag {
				t.Fatalf("%s: subscription %s: accepted %d is not acked %d + dropped %d + in flight %d + lag %d",
					d.Name, shard, s.Accepted, s.Acked, s.Dropped, s.InFlight, s.Lag)
			}
			sum.Accepted, sum.Acked, sum.Dropped = sum.Accepted+s.Accepted, sum.Acked+s.Acked, sum.Dropped+s.Dropped
			sum.InFlight, sum.Lag = sum.InFlight+s.InFlight, sum.Lag+s.Lag
		}
	}
	return sum
}

// TestConservation sends as much as readers take, and three and five times as
// much: whatever was accepted is acked or told as a gap, to the envelope.
func TestConservation(t *testing.T) {
	for _, times := range []float64{1, 3, 5} {
		t.Run(fmt.Sprintf("%vx", times), func(t *testing.T) {
			ctx := blackbox.Deadline(t)
			rate := pick(20_000.0, 2_000)
			c := startConserved(ctx, t, rate)
			f := startFlow(ctx, t, c.senders, c.Pipeline, blackbox.Sending{Plan: c.plan, Rate: times * rate / 2})
			shards := []string{"acks", "auto", "filter", "old"}
			// Until the rings have turned over for a reader that takes a part.
			enough := uint64(pick(1_000_000, 60_000))
			if times == 1 {
				enough /= 10
			}
			for accepted(ctx, t, c.Pipeline) < enough {
				for _, shard := range shards {
					c.balance(ctx, t, shard)
				}
				time.Sleep(100 * time.Millisecond)
			}
			sent := f.stop()
			if n := accepted(ctx, t, c.Pipeline); n != sent {
				t.Fatalf("the Dopplers say they accepted %d, producers sent %d", n, sent)
			}
			c.check(ctx, t, sent, times > 1)
		})
	}
}

// check lets everybody hurry, waits for the rest, and compares what Dopplers say
// with what readers have.
func (c *conserved) check(ctx context.Context, t *testing.T, sent uint64, lossy bool) {
	t.Helper()
	c.old.hurry()
	for _, r := range c.readers {
		r.Hurry()
	}
	for _, r := range c.tails {
		r.Hurry()
	}
	for shard, r := range c.readers {
		want := sent
		if shard == "filter" {
			want = sentOf(c.senders, filteredSource)
		}
		c.checkReader(ctx, t, shard, r, want, lossy)
		a := r.Account()
		c.checkView(ctx, t, shard, want, a.Received-a.Late, a.Exact)
	}
	for source, r := range c.tails {
		c.checkReader(ctx, t, fmt.Sprintf("tail %d", source), r, sentOf(c.senders, source), lossy)
	}
	c.old.until(ctx, t, "the rest", func() bool { return c.old.total+c.old.told >= sent })
	c.old.mu.Lock()
	total, told, again := c.old.total, c.old.told, c.old.again
	c.old.mu.Unlock()
	t.Logf("old: received %d, told %d missed", total, told)
	if total+told != sent || again != 0 {
		t.Errorf("old: received %d + told %d, sent were %d; %d came again", total, told, sent, again)
	}
	c.checkView(ctx, t, "old", sent, total, told)
}

func (c *conserved) checkReader(ctx context.Context, t *testing.T, name string, r *load.Reader, want uint64, lossy bool) {
	t.Helper()
	blackbox.Until(ctx, t, r, "account for everything: "+name, func(a load.Account, _ map[string]load.Place) bool {
		return a.Received-a.Late+a.Exact >= want
	})
	a := r.Account()
	t.Logf("%s: received %d, %d of them too late; told lost %d (%v); sent %d", name, a.Received, a.Late, a.Exact, a.GapReasons, want)
	switch {
	case a.Received-a.Late+a.Exact != want:
		t.Errorf("%s: received in time %d + told lost %d, sent were %d", name, a.Received-a.Late, a.Exact, want)
	case a.Repeated+a.Foreign+a.Others+a.AtLeast+a.Unknown != 0:
		t.Errorf("%s: repeated %d, foreign %d, others %d, gaps %d at least, %d unknown", name, a.Repeated, a.Foreign, a.Others, a.AtLeast, a.Unknown)
	case lossy && a.Exact == 0:
		t.Errorf("%s: nothing was lost, so nothing is proved", name)
	}
}

// checkView waits until the Dopplers have heard of the last ack, and compares.
func (c *conserved) checkView(ctx context.Context, t *testing.T, shard string, accepted, acked, dropped uint64) {
	t.Helper()
	var s blackbox.Subscription
	blackbox.Poll(ctx, t, "the last ack of "+shard, func() bool {
		s = c.balance(ctx, t, shard)
		return s.InFlight+s.Lag == 0
	})
	if s.Accepted != accepted || s.Acked != acked || s.Dropped != dropped {
		t.Errorf("%s: Dopplers say accepted %d, acked %d, dropped %d; the reader has %d, %d, %d", shard, s.Accepted, s.Acked, s.Dropped, accepted, acked, dropped)
	}
}
