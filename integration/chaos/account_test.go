package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/breaker"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// place is where a gap lies in the log of a Doppler.
type place struct {
	doppler  string
	epoch    uint64
	from, to uint64
}

// told puts the gaps of a reader in order. mu is held.
func (c *client) told(t *testing.T) (all map[place]uint64, sum uint64) {
	t.Helper()
	all = make(map[place]uint64)
	for _, gap := range c.gaps {
		if gap.GetPrecision() != streampb.Gap_EXACT {
			t.Fatalf("%s: was told %v, which is not exact", c.name, gap)
		}
		at := place{gap.GetDoppler(), gap.GetEpoch(), gap.GetFrom(), gap.GetTo()}
		if n, again := all[at]; again && n != gap.GetCount() {
			t.Fatalf("%s: was told %v, and before that it were %d", c.name, gap, n)
		} else if !again {
			all[at] = gap.GetCount()
			sum += gap.GetCount()
		}
	}
	return all, sum
}

// TestAccountAcrossBreaks has slow readers whose connections break all the time
// while the rings turn over: what they have and what they were told they miss is
// everything, to the envelope.
func TestAccountAcrossBreaks(t *testing.T) {
	ctx := blackbox.Deadline(t)
	rng := blackbox.Seeded(t)
	p, behind := startBehindProxies(ctx, t, pipeline.Config{
		DopplerArgs:    []string{"--ring-bytes", "8MiB", "--recent-logs", "0", "--window-bytes", "256KiB"},
		ControllerArgs: []string{"--socket-buffer-bytes", strconv.Itoa(socketBuffer), "--tail-queue-bytes", "256KiB"},
	})
	front := startProxy(ctx, t, p.Controllers[0].Addrs[pipeline.Public])
	url := "ws://" + front.Addr()
	plan := load.Plan{Shape: load.Reference, Sources: 4, Batch: 20}
	const rate = 1_000
	all := startSlow(ctx, t, nozzle.Open, nozzle.Config{Addr: url, Subscription: "all", ReadAhead: 1}, rate)
	some := startSlow(ctx, t, nozzle.Open, nozzle.Config{Addr: url, Subscription: "some", SourceIDs: []string{plan.SourceID(2)}, ReadAhead: 1}, rate/4)
	tail := startSlow(ctx, t, nozzle.Tail, nozzle.Config{Addr: url, Source: plan.SourceID(1), Recent: 10_000, ReadAhead: 1}, rate/4)
	for _, d := range p.Dopplers {
		for _, shard := range []string{"all", "some"} {
			blackbox.Poll(ctx, t, "members at "+d.Name, func() bool { return blackbox.Members(ctx, t, d, shard) == 1 })
		}
	}
	senders := blackbox.NewSenders(2)
	f := startFlow(ctx, t, senders, p, blackbox.Sending{Plan: plan, Rate: 2_500})
	over, end := context.WithCancel(ctx)
	var breaking sync.WaitGroup
	breaking.Go(func() {
		proxies := append(behind, front)
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		for n := 0; over.Err() == nil; n++ {
			_, _ = proxies[rng.IntN(len(proxies))].Break(over, rng, breaker.How(rng.IntN(2)), rng.IntN(64<<10)) // over, otherwise
			time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		}
	})
	for accepted(ctx, t, p) < 60_000 {
		time.Sleep(100 * time.Millisecond)
	}
	sent := f.stop()
	end()
	breaking.Wait()
	for _, c := range []*client{all, some, tail} {
		c.hurry()
	}
	logs := sentLogs{ends: map[string]uint64{}, sources: plan.Sources}
	for i, d := range p.Dopplers {
		for source := range plan.Sources {
			logs.ends[d.Name] += senders[i].Sent(source)
		}
	}
	all.account(ctx, t, p, logs, load.AnySource, sent)
	some.account(ctx, t, p, logs, 2, sentOf(senders, 2))
	want := sentOf(senders, 1)
	tail.until(ctx, t, "everything", func() bool { _, told := tail.told(t); return tail.total+told >= want })
	tail.mu.Lock()
	defer tail.mu.Unlock()
	_, told := tail.told(t)
	t.Logf("tail: %d of %d, told %d in %d gaps, over %d connections", tail.total, want, told, len(tail.gaps), tail.connects)
	if tail.total+told != want {
		t.Errorf("tail: has %d, was told %d, sent were %d", tail.total, told, want)
	}
}

// sentLogs is what was sent: the end of each Doppler's log, in which sources take
// turns.
type sentLogs struct {
	ends    map[string]uint64
	sources int
}

// account waits until every envelope of a source, or of any, is explained, and
// compares that with what the Dopplers say of the reader.
func (c *client) account(ctx context.Context, t *testing.T, p *pipeline.Pipeline, logs sentLogs, source int, want uint64) {
	t.Helper()
	var sum blackbox.Subscription
	blackbox.Poll(ctx, t, c.name+" to have everything", func() bool {
		sum = subscriptionOf(ctx, t, p, c)
		return sum.Accepted == want && sum.Acked+sum.Dropped == want
	})
	var unknown uint64
	var one string
	explained := func() bool {
		unknown, one = c.unexplained(t, logs, source)
		return unknown == 0
	}
	if err := c.wait(ctx, explained); err != nil {
		t.Fatalf("%s: nobody can explain %d envelopes, such as %s: %v\nDopplers: %+v, told:\n%s", c.name, unknown, one, err, sum, c.gapsInOrder())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	places, told := c.told(t)
	t.Logf("%s: %d of %d, %d again, told %d in %d gaps of which %d are different, over %d connections; Dopplers: %+v", c.name, c.total, want, c.again, told, len(c.gaps), len(places), c.connects, sum)
	// An ack may reach a Doppler that has given the envelopes up and has yet to
	// tell their reader, who has them: then nobody is told.
	if told > sum.Dropped || told+c.total < want {
		t.Errorf("%s: has %d and was told %d, the Dopplers dropped %d of %d", c.name, c.total, told, sum.Dropped, want)
	}
	if c.total < sum.Acked {
		t.Errorf("%s: has %d, the Dopplers say it acked %d", c.name, c.total, sum.Acked)
	}
}

// subscriptionOf adds up what the Dopplers say of a reader.
func subscriptionOf(ctx context.Context, t *testing.T, p *pipeline.Pipeline, c *client) (sum blackbox.Subscription) {
	t.Helper()
	for _, d := range p.Dopplers {
		for _, s := range blackbox.Subscriptions(ctx, t, d) {
			if "nozzle "+s.Shard == c.name {
				sum.Accepted, sum.Acked, sum.Dropped = sum.Accepted+s.Accepted, sum.Acked+s.Acked, sum.Dropped+s.Dropped
				sum.InFlight, sum.Lag = sum.InFlight+s.InFlight, sum.Lag+s.Lag
			}
		}
	}
	return sum
}

// unexplained counts the envelopes of a source, or of any, that were neither
// delivered nor told, and names one. mu is held.
func (c *client) unexplained(t *testing.T, logs sentLogs, source int) (n uint64, one string) {
	t.Helper()
	gaps, _ := c.told(t)
	for at, log := range c.identities.logs {
		for i := range logs.ends[at.doppler] {
			switch turn := int(i) % logs.sources; {
			case log[i] != 0 && load.Unpack(log[i]-1).Source != turn:
				t.Fatalf("%s: %s/%d is of source %d, it was the turn of %d", c.name, at.doppler, i, load.Unpack(log[i]-1).Source, turn)
			case log[i] == 0 && (source == load.AnySource || source == turn) && !isTold(gaps, at, i):
				n, one = n+1, fmt.Sprintf("%s/%d", at.doppler, i)
			}
		}
	}
	if missing := len(logs.ends) - len(c.identities.logs); missing > 0 {
		n, one = n+1, "all that a Doppler had"
	}
	return n, one
}

func isTold(gaps map[place]uint64, at epoch, offset uint64) bool {
	for g := range gaps {
		if g.doppler == at.doppler && g.epoch == at.number && g.from <= offset && offset < g.to {
			return true
		}
	}
	return false
}

// startSlow starts a reader that takes so many envelopes per second, and may be
// told gaps.
func startSlow(ctx context.Context, t *testing.T, open func(context.Context, nozzle.Config) (*nozzle.Stream, error), conf nozzle.Config, rate float64) *client {
	t.Helper()
	name := "nozzle " + conf.Subscription
	take := (*client).atLeastOnce
	if conf.Subscription == "" {
		name, take = "tail", (*client).atMostOnce
	}
	c := startClient(ctx, t, name, open, conf, func(c *client, b *nozzle.Batch) {
		take(c, b)
		if c.rate > 0 {
			wait := time.Duration(float64(b.Len()) / c.rate * float64(time.Second))
			c.mu.Unlock()
			time.Sleep(wait)
			c.mu.Lock()
		}
	})
	c.mu.Lock()
	c.rate, c.mayMiss = rate, 1<<30
	c.mu.Unlock()
	c.until(ctx, t, "connected", func() bool { return c.connects > 0 })
	return c
}

func (c *client) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rate = 0
}

// atMostOnce wants every envelope once, marked or not. mu is held.
func (c *client) atMostOnce(b *nozzle.Batch) {
	before := c.again
	c.atLeastOnce(b)
	if c.again != before {
		c.failf("came again: %v", b.Position)
	}
}

// gapsInOrder lists what was told, as it came.
func (c *client) gapsInOrder() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var text strings.Builder
	for _, gap := range c.gaps {
		fmt.Fprintf(&text, "%s [%d, %d): %d %v\n", gap.GetDoppler(), gap.GetFrom(), gap.GetTo(), gap.GetCount(), gap.GetReason())
	}
	return text.String()
}
