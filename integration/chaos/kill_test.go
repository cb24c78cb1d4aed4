package chaos

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// nozzleProcess is a firehose-nozzle that writes a file, and is started again
// when it was killed.
type nozzleProcess struct {
	args []string
	*process.Process
}

func (n *nozzleProcess) start(ctx context.Context, t *testing.T) {
	t.Helper()
	n.Process = blackbox.Launch(t, process.Nozzle, process.Command{Args: n.args})
	if _, err := n.Listening(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestKilledNozzleAndController kills a Traffic Controller 20 times and a nozzle
// 20 times, in any order and at any time, under load: the nozzle's file has
// everything, and what it has twice can be told by its identity.
func TestKilledNozzleAndController(t *testing.T) {
	const each = 20
	ctx := blackbox.Deadline(t)
	rng := blackbox.Seeded(t)
	p := blackbox.Start(t, pipeline.Config{Dopplers: 2, Controllers: 1, DopplerArgs: []string{"--ring-bytes", pick("4GiB", "512MiB")}})
	dir := t.TempDir()
	file := &sinkFile{client: &client{watch: newWatch("sink")}, path: filepath.Join(dir, "lines")}
	n := &nozzleProcess{args: []string{
		"--addr", p.URL(0), "--subscription", "archive", "--sink", "file", "--file", file.path,
		"--cursor-file", filepath.Join(dir, "cursor"), "--admin-addr", "127.0.0.1:0",
	}}
	n.start(ctx, t)
	for _, d := range p.Dopplers {
		blackbox.Poll(ctx, t, "the nozzle at "+d.Name, func() bool { return blackbox.Members(ctx, t, d, "archive") == 1 })
	}
	senders := blackbox.NewSenders(2)
	rate := pick(25_000, 5_000)
	f := startFlow(ctx, t, senders, p, blackbox.Sending{Plan: load.Plan{Shape: load.Reference, Sources: 100, Batch: 50}, Rate: float64(rate)})
	for _, i := range rng.Perm(2 * each) {
		// Somewhere in the next half of a second, as soon as things move.
		grown := file.size() + int64(rng.IntN(rate*900))
		blackbox.Poll(ctx, t, "the file to grow", func() bool { return file.size() > grown })
		if i < each {
			n.Kill()
			n.start(ctx, t)
			continue
		}
		p.Controllers[0].Kill()
		if err := p.Restart(ctx, p.Controllers[0]); err != nil {
			t.Fatal(err)
		}
	}
	sent := f.stop()
	if taken := accepted(ctx, t, p); taken != sent {
		t.Fatalf("the Dopplers say they accepted %d, producers sent %d", taken, sent)
	}
	blackbox.Poll(ctx, t, "everything in the file", func() bool {
		if err := file.read(); err != nil {
			t.Fatal(err)
		}
		return file.total >= sent
	})
	file.complete(ctx, t, sent)
	if code, err := n.Stop(ctx); err != nil || code != 0 {
		t.Errorf("nozzle: code %d, %v: %s", code, err, n.Log())
	}
	if err := file.read(); err != nil {
		t.Fatal(err)
	}
	file.complete(ctx, t, sent)
}

// TestKilledDoppler kills one of two Dopplers under load. Of the other nothing
// may be missing; of what the killed one held there is a beginning, and one gap
// of unknown size.
func TestKilledDoppler(t *testing.T) {
	ctx := blackbox.Deadline(t)
	p := blackbox.Start(t, pipeline.Config{Dopplers: 2, Controllers: 1})
	killed := p.Dopplers[1]
	plan := load.Plan{Shape: load.Reference, Sources: 20, Batch: 20}
	acks := startNozzle(ctx, t, nozzle.Config{Addr: p.URL(0), Subscription: "acks"})
	auto := startNozzle(ctx, t, nozzle.Config{Addr: p.URL(0), Subscription: "auto", AutoAck: true})
	few := startNozzle(ctx, t, nozzle.Config{Addr: p.URL(0), Subscription: "few", SourceIDs: []string{plan.SourceID(3)}})
	tail := startTail(ctx, t, "tail", nozzle.Config{Addr: p.URL(0), Source: plan.SourceID(3), Recent: 10_000}, 3)
	old := startOld(ctx, t, "old", p.URL(0)+"/firehose/old")
	oldTail := startOld(ctx, t, "old tail", p.URL(0)+"/apps/"+plan.SourceID(3)+"/stream")
	clients := []*client{acks, auto, few, tail}
	for _, c := range clients {
		c.mayMiss = 1
	}
	olds := []*oldReader{old, oldTail}
	for _, o := range olds {
		o.mayNote = 1
	}
	for _, d := range p.Dopplers {
		for _, shard := range []string{"acks", "auto", "few", "old"} {
			blackbox.Poll(ctx, t, "members at "+d.Name, func() bool { return blackbox.Members(ctx, t, d, shard) == 1 })
		}
		blackbox.Poll(ctx, t, "sources watched at "+d.Name, func() bool { return blackbox.Metric(ctx, t, d, "doppler_subscriptions") == 5 })
	}

	// Sender 1 sends to the Doppler that is killed, sender 2 to its next life.
	senders := blackbox.NewSenders(3)
	f := startFlow(ctx, t, senders[:1], p, blackbox.Sending{Plan: plan, Rate: 5_000})
	broken := make(chan error, 1)
	go func() {
		_, err := senders[1].Run(ctx, load.Run{Plan: plan, Addr: killed.Addrs[pipeline.GRPC], Rate: 5_000})
		broken <- err
	}()
	for _, c := range clients {
		c.until(ctx, t, "some of it", func() bool { return c.total > 500 })
	}
	killed.Kill()
	if err := <-broken; err == nil {
		t.Fatal("the producer has not seen that its Doppler is gone")
	}
	if err := p.Restart(ctx, killed); err != nil {
		t.Fatal(err)
	}
	blackbox.Send(ctx, t, senders[2:], p.Dopplers[1:], blackbox.Sending{Plan: plan, Count: 5_000, Rate: 5_000})
	f.stop()
	everything := make([]int, plan.Sources)
	for i := range everything {
		everything[i] = i
	}
	for c, sources := range map[*watch][]int{
		acks.watch: everything, auto.watch: everything, old.watch: everything,
		few.watch: {3}, tail.watch: {3}, oldTail.watch: {3},
	} {
		c.checkPrefix(ctx, t, senders, sources, 1)
	}
	for _, c := range clients {
		c.mu.Lock()
		if n := len(c.gaps); n != 1 || c.gaps[0].GetDoppler() != killed.Name || c.gaps[0].GetReason() != streampb.Gap_DOPPLER_LOST || c.gaps[0].GetPrecision() != streampb.Gap_UNKNOWN {
			t.Errorf("%s: gaps %v, want one of %s, lost", c.name, c.gaps, killed.Name)
		}
		c.mu.Unlock()
	}
	for _, o := range olds {
		o.mu.Lock()
		if len(o.notes) != 1 || !strings.Contains(o.notes[0], "unknown number") || o.told > 1 {
			t.Errorf("%s: was told %q and %d missed, want one line of an unknown number, and a counter of 1 at most", o.name, o.notes, o.told)
		}
		o.mu.Unlock()
	}
}

// checkPrefix waits until all was seen that senders have sent of some sources,
// and a beginning of what one of them has, and checks that there is no more.
func (w *watch) checkPrefix(ctx context.Context, t *testing.T, senders []*load.Sender, sources []int, broken int) {
	t.Helper()
	w.until(ctx, t, "what was not lost", func() bool {
		for i, s := range senders {
			for _, source := range sources {
				if n := s.Sent(source); i != broken && n > 0 && !w.ids.Has(load.ID{Sender: i, Source: source, N: n - 1}) {
					return false
				}
			}
		}
		return true
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := uint64(0)
	for i, s := range senders {
		for _, source := range sources {
			n := w.prefix(i, source)
			if sum += n; i != broken && n != s.Sent(source) {
				t.Errorf("%s: sender %d, source %d: number %d is missing, of %d", w.name, i, source, n, s.Sent(source))
			}
		}
	}
	t.Logf("%s: %d envelopes, %d again", w.name, w.total, w.again)
	if sum != w.total || w.again != 0 {
		t.Errorf("%s: has %d envelopes, %d of them before the first that is missing, %d again", w.name, w.total, sum, w.again)
	}
}
