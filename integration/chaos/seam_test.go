package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// seam follows a source from its newest envelopes on.
type seam struct {
	recent, follow int // envelopes of the past asked for, and of what is new
	next           map[int]uint64
	past, live     int
	isLive         bool
}

// try reads until there is enough, or something cannot be explained.
func (s *seam) try(ctx context.Context, addr string, plan load.Plan, source int) (err error) {
	s.next = make(map[int]uint64)
	stream, err := nozzle.Tail(ctx, nozzle.Config{
		Addr: addr, Source: plan.SourceID(source), Recent: s.recent,
		Notify: func(n nozzle.Notice) { s.isLive = s.isLive || n.Kind == nozzle.Live }, // by Recv
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	for s.live < s.follow {
		b, err := stream.Recv(ctx)
		if err != nil {
			return err
		}
		if len(b.Gaps) > 0 {
			return fmt.Errorf("gaps %v", b.Gaps)
		}
		for id, env := range b.All() {
			packed, _, ok := load.Identify(env)
			if !ok {
				return fmt.Errorf("%v is an envelope nobody here made", id)
			}
			if err := s.one(load.Unpack(packed), source); err != nil {
				return fmt.Errorf("%v: %w", id, err)
			}
		}
		b.Release()
	}
	if s.past < s.recent { // what came over a link meanwhile may stand before the end of the past
		return fmt.Errorf("%d envelopes of the past, asked for were %d", s.past, s.recent)
	}
	return nil
}

// one wants each sender's envelopes one after the other, wherever they begin.
func (s *seam) one(e load.ID, source int) error {
	next, known := s.next[e.Sender]
	if e.Source != source || known && e.N != next {
		return fmt.Errorf("%+v, to come is %d of source %d; %d of the past, %d live", e, next, source, s.past, s.live)
	}
	s.next[e.Sender] = e.N + 1
	if s.isLive {
		s.live++
	} else {
		s.past++
	}
	return nil
}

// TestSeam asks for the newest envelopes and follows, a thousand times under
// load: there is neither a hole nor a duplicate where one becomes the other.
func TestSeam(t *testing.T) {
	const sources, tries, atOnce, most = 20, 1000, 25, 1000
	ctx := blackbox.Deadline(t)
	rng := blackbox.Seeded(t)
	p := blackbox.Start(t, pipeline.Config{Dopplers: 2, Controllers: 1})
	plan := load.Plan{Shape: load.Reference, Sources: sources, Batch: 20}
	senders := blackbox.NewSenders(2)
	blackbox.Send(ctx, t, senders, p.Dopplers, blackbox.Sending{Plan: plan, Count: most * sources})
	f := startFlow(ctx, t, senders, p, blackbox.Sending{Plan: plan, Rate: pick(25_000.0, 5_000)})
	work := make(chan *rand.Rand, tries)
	for range tries {
		work <- rand.New(rand.NewPCG(rng.Uint64(), 0))
	}
	close(work)
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for rng := range work {
				s := &seam{recent: 1 + rng.IntN(1+rng.IntN(most)), follow: 1 + rng.IntN(100)}
				if err := s.try(ctx, p.URL(0), plan, rng.IntN(sources)); err != nil {
					t.Errorf("recent %d: %v", s.recent, err)
					return
				}
			}
		})
	}
	all.Wait()
	for source := range 3 {
		logsSeam(ctx, t, p, plan, source)
	}
	t.Logf("%d tries, %d envelopes meanwhile", tries, f.stop())
}

// output is what a program says. It may be written and read concurrently.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.SplitAfter(o.text.String(), "\n")
}

// logsSeam is a try with lgr logs -n.
func logsSeam(ctx context.Context, t *testing.T, p *pipeline.Pipeline, plan load.Plan, source int) {
	t.Helper()
	const recent, enough = 500, 1000
	out := &output{}
	lgr := blackbox.Launch(t, process.Lgr, process.Command{
		Args:   []string{"logs", plan.SourceID(source), "-n", strconv.Itoa(recent), "--addr", strings.Replace(p.URL(0), "ws", "http", 1)},
		Stdout: out,
	})
	blackbox.Poll(ctx, t, "lines of lgr logs", func() bool { return len(out.lines()) > enough })
	if code, err := lgr.Stop(ctx); err != nil || code != 0 && code != 143 && code != 130 {
		t.Errorf("lgr logs: code %d, %v: %s", code, err, lgr.Log())
	}
	s := &seam{next: make(map[int]uint64)}
	for _, text := range out.lines() {
		_, seq, ok := strings.Cut(text, " seq=")
		if !ok {
			continue // what it says to people
		}
		packed, err := strconv.ParseUint(strings.TrimSpace(seq), 10, 64)
		if err == nil {
			err = s.one(load.Unpack(packed), source)
		}
		if err != nil {
			t.Fatalf("lgr logs: %q: %v", text, err)
		}
	}
}
