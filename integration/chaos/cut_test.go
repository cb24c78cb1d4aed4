package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/breaker"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// startProxy starts a proxy that is closed when the test ends.
func startProxy(ctx context.Context, t *testing.T, targets ...string) *breaker.Proxy {
	t.Helper()
	p, err := breaker.Listen(ctx, socketBuffer, targets...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// startBehindProxies starts two Dopplers, a proxy before each, and a Traffic
// Controller, which talks to the proxies.
func startBehindProxies(ctx context.Context, t *testing.T, conf pipeline.Config) (*pipeline.Pipeline, []*breaker.Proxy) {
	t.Helper()
	conf.Dopplers, conf.Peers = 2, filepath.Join(t.TempDir(), "dopplers")
	p := blackbox.Start(t, conf)
	var proxies []*breaker.Proxy
	var addrs strings.Builder
	for _, d := range p.Dopplers {
		proxy := startProxy(ctx, t, d.Addrs[pipeline.Stream])
		proxies = append(proxies, proxy)
		addrs.WriteString(proxy.Addr() + "\n")
	}
	if err := os.WriteFile(conf.Peers, []byte(addrs.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := p.AddController(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitReady(ctx, c); err != nil {
		t.Fatal(err)
	}
	return p, proxies
}

// breakSome breaks connections of all proxies, chosen at random, in the middle
// of what they carry.
func breakSome(ctx context.Context, t *testing.T, rng *rand.Rand, proxies []*breaker.Proxy, n int) {
	t.Helper()
	done := make(map[breaker.How]int)
	for done[breaker.Reset]+done[breaker.Finish] < n {
		how := breaker.How(rng.IntN(2))
		ok, err := proxies[rng.IntN(len(proxies))].Break(ctx, rng, how, rng.IntN(64<<10))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			time.Sleep(time.Millisecond) // until somebody comes back
			continue
		}
		done[how]++
	}
	t.Logf("connections broken: %v", done)
}

// TestBrokenConnections breaks 100 connections under load: half of them between
// the Traffic Controller and the Dopplers, the others between clients and the
// Traffic Controller.
func TestBrokenConnections(t *testing.T) {
	ctx := blackbox.Deadline(t)
	rng := blackbox.Seeded(t)
	p, proxies := startBehindProxies(ctx, t, pipeline.Config{
		DopplerArgs:    []string{"--ring-bytes", "512MiB"},
		ControllerArgs: []string{"--socket-buffer-bytes", strconv.Itoa(socketBuffer)},
	})
	front := startProxy(ctx, t, p.Controllers[0].Addrs[pipeline.Public])
	url := "ws://" + front.Addr()
	plan := load.Plan{Shape: load.Reference, Sources: 20, Batch: 20}

	all := startNozzle(ctx, t, nozzle.Config{Addr: url, Subscription: "all"})
	some := startNozzle(ctx, t, nozzle.Config{Addr: url, Subscription: "some", Types: []string{"log"}, SourceIDs: []string{plan.SourceID(3), plan.SourceID(4)}})
	old := startOld(ctx, t, "old Firehose", url+"/firehose/old")
	var tails []*client
	for source := range 3 {
		tails = append(tails, startTail(ctx, t, fmt.Sprintf("tail %d", source), nozzle.Config{Addr: url, Source: plan.SourceID(source), Recent: 10_000}, source))
	}
	for _, d := range p.Dopplers {
		for _, shard := range []string{"all", "some", "old"} {
			blackbox.Poll(ctx, t, "members at "+d.Name, func() bool { return blackbox.Members(ctx, t, d, shard) == 1 })
		}
	}

	senders := blackbox.NewSenders(len(p.Dopplers))
	sent := uint64(0)
	phase := func(proxies ...*breaker.Proxy) {
		f := startFlow(ctx, t, senders, p, blackbox.Sending{Plan: plan, Rate: pick(25_000.0, 5_000)})
		breakSome(ctx, t, rng, proxies, 50)
		sent += f.stop()
		if n := accepted(ctx, t, p); n != sent {
			t.Fatalf("the Dopplers say they accepted %d, producers sent %d", n, sent)
		}
		all.complete(ctx, t, sent)
		some.complete(ctx, t, sentOf(senders, 3)+sentOf(senders, 4))
		for source, tail := range tails {
			tail.complete(ctx, t, sentOf(senders, source))
		}
	}
	phase(proxies...)
	old.complete(ctx, t, sent) // no socket of its own was broken
	old.never(t, "delivered again", func() bool { return old.again > 0 })
	phase(front)
	// The newest may have been in a socket that broke: look behind what comes now.
	old.settled(ctx, t, func() (uint64, []load.ID) {
		sent += blackbox.Send(ctx, t, senders, p.Dopplers, blackbox.Sending{Plan: plan, Count: 20})
		return sent, newest(senders, plan.Sources-1)
	})
}

// newest are the newest envelopes of a source, of each sender.
func newest(senders []*load.Sender, source int) (ids []load.ID) {
	for i, s := range senders {
		ids = append(ids, load.ID{Sender: i, Source: source, N: s.Sent(source) - 1})
	}
	return ids
}
