package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/breaker"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// storm is a platform on which everything happens at once.
type storm struct {
	*pipeline.Pipeline
	plan    load.Plan
	front   *breaker.Proxy
	behind  []*breaker.Proxy // before each Doppler
	nozzles []*client
	tails   []*client // of source number of its place
}

const stormTails = 5

// startStorm starts two Dopplers, two Traffic Controllers and readers, with
// proxies between all of them.
func startStorm(ctx context.Context, t *testing.T) *storm {
	t.Helper()
	s := &storm{plan: load.Plan{Shape: load.Reference, Sources: 20, Batch: 20}}
	conf := pipeline.Config{Dopplers: 2, Peers: filepath.Join(t.TempDir(), "dopplers"),
		DopplerArgs:    []string{"--ring-bytes", pick("1GiB", "256MiB"), "--drain-grace", "30s"},
		ControllerArgs: []string{"--drain-grace", "1s", "--socket-buffer-bytes", "64KiB"},
	}
	s.Pipeline = blackbox.Start(t, conf)
	var addrs strings.Builder
	for _, d := range s.Dopplers {
		proxy := startProxy(ctx, t, d.Addrs[pipeline.Stream])
		s.behind = append(s.behind, proxy)
		addrs.WriteString(proxy.Addr() + "\n")
	}
	if err := os.WriteFile(conf.Peers, []byte(addrs.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var public []string
	for range 2 {
		c, err := s.AddController(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WaitReady(ctx, c); err != nil {
			t.Fatal(err)
		}
		public = append(public, c.Addrs[pipeline.Public])
	}
	s.front = startProxy(ctx, t, public...)
	url := "ws://" + s.front.Addr()
	for i := range 3 {
		s.nozzles = append(s.nozzles, startNozzle(ctx, t, nozzle.Config{Addr: url, Subscription: fmt.Sprintf("storm-%d", i)}))
	}
	for i := range stormTails {
		s.tails = append(s.tails, startTail(ctx, t, fmt.Sprintf("tail %d", i), nozzle.Config{Addr: url, Source: s.plan.SourceID(i), Recent: 10_000}, i))
	}
	for _, d := range s.Dopplers {
		for i := range s.nozzles {
			blackbox.Poll(ctx, t, "members at "+d.Name, func() bool { return blackbox.Members(ctx, t, d, fmt.Sprintf("storm-%d", i)) == 1 })
		}
	}
	return s
}

// TestStorm breaks connections and restarts Traffic Controllers, killed or
// asked to stop, at the same time.
func TestStorm(t *testing.T) {
	ctx := blackbox.Deadline(t)
	rng := blackbox.Seeded(t)
	s := startStorm(ctx, t)
	senders := blackbox.NewSenders(2)
	f := startFlow(ctx, t, senders, s.Pipeline, blackbox.Sending{Plan: s.plan, Rate: pick(10_000.0, 2_000)})
	over, end := context.WithTimeout(ctx, pick(time.Minute, 10*time.Second))
	defer end()
	var both sync.WaitGroup
	both.Go(func() { s.breakAll(over, t, rand.New(rand.NewPCG(rng.Uint64(), 0))) })
	both.Go(func() { s.restartControllers(ctx, over, t, rand.New(rand.NewPCG(rng.Uint64(), 0))) })
	both.Wait()
	sent := f.stop()
	for _, n := range s.nozzles {
		n.complete(ctx, t, sent)
	}
	for i, tail := range s.tails {
		tail.complete(ctx, t, sentOf(senders, i))
	}
}

// breakAll breaks connections until it is over.
func (s *storm) breakAll(over context.Context, t *testing.T, rng *rand.Rand) {
	t.Helper()
	proxies := append(s.behind, s.front)
	n := 0
	for over.Err() == nil {
		ok, _ := proxies[rng.IntN(len(proxies))].Break(over, rng, breaker.How(rng.IntN(2)), rng.IntN(64<<10))
		if ok {
			n++
		}
		time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
	}
	t.Logf("%d connections broken", n)
}

// restartControllers restarts Traffic Controllers until it is over.
func (s *storm) restartControllers(ctx, over context.Context, t *testing.T, rng *rand.Rand) {
	t.Helper()
	killed, stopped := 0, 0
	for over.Err() == nil {
		c := s.Controllers[rng.IntN(len(s.Controllers))]
		if rng.IntN(2) == 0 {
			c.Kill()
			killed++
		} else {
			if code, err := c.Stop(ctx); err != nil || code != 0 {
				t.Errorf("%s ended with code %d, %v:\n%s", c.Name, code, err, c.Log())
			}
			stopped++
		}
		if err := s.Restart(ctx, c); err != nil {
			t.Error(err)
			return
		}
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
	}
	t.Logf("Traffic Controllers killed %d times, stopped %d times", killed, stopped)
}
