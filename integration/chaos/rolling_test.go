package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// producers push to Dopplers that come and go: a sender for each life of each.
type producers struct {
	plan    load.Plan
	rate    float64
	running sync.WaitGroup

	mu      sync.Mutex
	senders []*load.Sender
	live    map[*pipeline.Service]int // number of its sender
	taken   []uint64                  // by sender: what its Doppler accepted
}

// push sends to a Doppler until it stops taking, or all is stopped.
func (p *producers) push(ctx context.Context, t *testing.T, d *pipeline.Service) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	number := len(p.senders)
	sender := load.NewSender(number)
	p.senders, p.taken = append(p.senders, sender), append(p.taken, 0)
	p.live[d] = number
	p.running.Go(func() {
		sent, err := sender.Run(ctx, load.Run{Plan: p.plan, Addr: d.Addrs[pipeline.GRPC], Rate: p.rate})
		if err == nil {
			p.accepted(number, sent.Envelopes)
		}
	})
}

func (p *producers) accepted(number int, n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[number] = n
}

// stopped reads from the log of a Doppler that has ended what it accepted.
func (p *producers) stopped(t *testing.T, d *pipeline.Service) {
	t.Helper()
	for text := range strings.Lines(d.Log()) {
		var said struct {
			Msg       string
			Envelopes *uint64
		}
		if json.Unmarshal([]byte(text), &said) == nil && said.Msg == "stopped" && said.Envelopes != nil {
			p.accepted(p.live[d], *said.Envelopes)
			return
		}
	}
	t.Fatalf("%s does not say what it accepted:\n%s", d.Name, d.Log())
}

// TestRollingRestart restarts two Dopplers and two Traffic Controllers, one
// after the other, under load and with 200 tails, all of which come back soon.
// Those that resume, at the other Traffic Controller, miss nothing.
func TestRollingRestart(t *testing.T) {
	const sources, tails = 20, 200
	ctx := blackbox.Deadline(t)
	grace := pick("10s", "2s")
	p := blackbox.Start(t, pipeline.Config{
		Dopplers: 2, Controllers: 2, DopplerArgs: []string{"--drain-grace", "30s"}, ControllerArgs: []string{"--drain-grace", grace},
	})
	front := startProxy(ctx, t, p.Controllers[0].Addrs[pipeline.Public], p.Controllers[1].Addrs[pipeline.Public])
	url := "ws://" + front.Addr()
	plan := load.Plan{Shape: load.Reference, Sources: sources, Batch: 20}
	truth := startNozzle(ctx, t, nozzle.Config{Addr: url, Subscription: "truth"})
	for _, d := range p.Dopplers {
		blackbox.Poll(ctx, t, "the nozzle at "+d.Name, func() bool { return blackbox.Members(ctx, t, d, "truth") == 1 })
	}
	resuming := make(map[*client]int)
	all := []*watch{truth.watch}
	for i := range tails {
		source := i % sources
		if i%4 == 0 {
			o := startOld(ctx, t, fmt.Sprintf("old tail %d", i), url+"/apps/"+plan.SourceID(source)+"/stream")
			all = append(all, o.watch)
			continue
		}
		c := startTail(ctx, t, fmt.Sprintf("tail %d", i), nozzle.Config{Addr: url, Source: plan.SourceID(source), Recent: 10_000}, source)
		resuming[c] = source
		all = append(all, c.watch)
	}

	from := &producers{plan: plan, rate: pick(5_000.0, 1_000), live: make(map[*pipeline.Service]int)}
	sending, end := context.WithCancel(ctx)
	defer func() {
		end()
		from.running.Wait()
	}()
	for _, d := range p.Dopplers {
		from.push(sending, t, d)
	}
	restart := func(s *pipeline.Service) {
		seen := truth.seen()
		truth.until(ctx, t, "things to move", func() bool { return truth.total > seen+1000 })
		began := time.Now()
		if code, err := s.Stop(ctx); err != nil || code != 0 {
			t.Fatalf("%s ended with code %d, %v:\n%s", s.Name, code, err, s.Log())
		}
		t.Logf("%s stopped within %v", s.Name, time.Since(began).Round(time.Millisecond))
		if s == p.Dopplers[0] || s == p.Dopplers[1] {
			from.stopped(t, s)
		}
		if err := p.Restart(ctx, s); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitReady(ctx, s); err != nil {
			t.Fatal(err)
		}
		for _, w := range all {
			w.until(ctx, t, "a connection", func() bool { return w.up })
		}
	}
	for i := range 2 {
		restart(p.Dopplers[i])
		from.push(sending, t, p.Dopplers[i])
		restart(p.Controllers[i])
	}
	seen := truth.seen()
	truth.until(ctx, t, "things to move", func() bool { return truth.total > seen+1000 })
	end()
	from.running.Wait()

	sum := uint64(0)
	for _, n := range from.taken {
		sum += n
	}
	truth.complete(ctx, t, sum)
	for c, source := range resuming {
		want := uint64(0)
		truth.mu.Lock()
		for i := range from.senders {
			want += truth.prefix(i, source)
		}
		truth.mu.Unlock()
		c.until(ctx, t, fmt.Sprintf("all of %d", want), func() bool { return c.total >= want })
		if n := c.seen(); n != want {
			t.Errorf("%s: has %d, accepted were %d", c.name, n, want)
		}
	}
	codes, away := make(map[stream.CloseCode]int), time.Duration(0)
	for _, w := range all {
		w.mu.Lock()
		for code, n := range w.closes {
			codes[code] += n
			// A socket that is full until the last moment has no room for a code.
			if code != stream.CloseGoingAway && code != stream.CloseDraining && w != truth.watch {
				t.Errorf("%s: was closed with %v", w.name, code)
			}
		}
		away = max(away, w.away)
		w.mu.Unlock()
	}
	t.Logf("%d envelopes; %d streams closed with %v, back within %v", sum, len(all), codes, away)
	if away > 10*time.Second {
		t.Errorf("a stream was away for %v", away)
	}
}
