package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// town is one loud app among quiet ones, all of them with a tail.
type town struct {
	p       *pipeline.Pipeline
	quiet   load.Plan
	loud    load.Plan
	tails   []*load.Reader // of the quiet apps
	loudest *load.Reader
	senders []*load.Sender // of the quiet apps, of the loud one
	sent    uint64         // by the loud one
}

const (
	quietApps = 20
	quietRate = 20 // lines per second of each
	loudRate  = 50 * quietRate
)

func newTown(ctx context.Context, t *testing.T, conf pipeline.Config) *town {
	t.Helper()
	conf.Dopplers, conf.Controllers = 1, 1
	f := &town{
		p: start(t, conf), senders: newSenders(2),
		quiet: load.Plan{Shape: load.Reference, Sources: quietApps, Batch: quietApps},
		loud:  load.Plan{Shape: load.Reference, First: quietApps, Sources: 1, Batch: 50},
	}
	since := url.Values{"since": {strconv.FormatInt(time.Now().UnixNano(), 10)}}
	for source := range quietApps + 1 {
		tail := read(ctx, t, load.ReaderConfig{URL: f.p.URL(0), SourceID: f.quiet.SourceID(source), Source: source, Query: since})
		if f.loudest = tail; source < quietApps {
			f.tails = append(f.tails, tail)
		}
	}
	return f
}

// live sends from everybody, the loud one at a rate, until what has to happen has
// happened.
func (f *town) live(ctx context.Context, t *testing.T, rate float64, what func()) {
	t.Helper()
	ctx, end := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		send(ctx, t, f.senders[:1], f.p.Dopplers, sending{Plan: f.quiet, Rate: quietApps * quietRate})
	})
	all.Go(func() {
		f.sent += send(ctx, t, f.senders[1:], f.p.Dopplers, sending{Plan: f.loud, Rate: rate})
	})
	defer all.Wait()
	defer end()
	what()
}

// turn waits until the ring has let go of all it holds now, n times.
func (f *town) turn(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	for range n {
		head := metric(ctx, t, f.p.Dopplers[0], "doppler_ring_envelopes_total")
		blackbox.Poll(ctx, t, "the ring turns over", func() bool {
			return metric(ctx, t, f.p.Dopplers[0], "doppler_ring_evicted_total") > head
		})
	}
}

// checkQuiet checks that no quiet app misses a line: in its tail, nor among its
// newest.
func (f *town) checkQuiet(ctx context.Context, t *testing.T) {
	t.Helper()
	for i, tail := range f.tails {
		complete(ctx, t, fmt.Sprintf("quiet app %d", i), tail, f.senders[0].Sent(i))
	}
	for i := range quietApps {
		want := min(f.senders[0].Sent(i), 1000)
		newest := read(ctx, t, load.ReaderConfig{
			URL: f.p.URL(0), SourceID: f.quiet.SourceID(i), Source: i, Query: url.Values{"recent": {"1000"}},
		})
		until(ctx, t, newest, fmt.Sprintf("have the newest %d of quiet app %d", want, i), func(a load.Account, _ map[string]load.Place) bool {
			return a.Received >= want
		})
	}
}

// While the Traffic Controller stands still, the loud app turns the ring over, more
// than once; and as loud as the machine allows.
func TestLoudAppCostsQuietOnesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		rate  float64
		turns int // of the ring while the Traffic Controller stands still
	}{"50 times as loud": {loudRate, 2}, "as loud as can be": {0, 30}} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t)
			f := newTown(ctx, t, pipeline.Config{DopplerArgs: []string{"--ring-bytes", "1MiB", "--max-envelope-bytes", "64KiB"}})
			f.live(ctx, t, test.rate, func() {
				f.turn(ctx, t, 1)
				for range 2 {
					if err := f.p.Controllers[0].Signal(syscall.SIGSTOP); err != nil {
						t.Fatal(err)
					}
					f.turn(ctx, t, test.turns)
					if err := f.p.Controllers[0].Signal(syscall.SIGCONT); err != nil {
						t.Fatal(err)
					}
					f.turn(ctx, t, 1)
				}
			})
			f.checkQuiet(ctx, t)
			a := untilAccounted(ctx, t, f.loudest, f.sent)
			t.Logf("the loud app got %d of %d, told lost %d (%v)", a.Received, f.sent, a.Exact, a.GapReasons)
		})
	}
}

// With a limit, the loud app is held to it, is told exactly what was left out, and
// shows in the view.
func TestLoudAppIsHeldToTheLimit(t *testing.T) {
	const limit = 2 * quietRate
	ctx := deadline(t)
	f := newTown(ctx, t, pipeline.Config{DopplerArgs: []string{"--source-limit", strconv.Itoa(limit)}})
	limited := func() (n uint64) {
		var view struct {
			Sources []struct {
				ID      string  `json:"source_id"`
				Share   float64 `json:"share"`
				Limited uint64  `json:"limited"`
			} `json:"sources"`
		}
		body := get(ctx, t, "http://"+f.p.Controllers[0].Addrs[pipeline.Admin]+"/sources", http.StatusOK)
		if err := json.Unmarshal([]byte(body), &view); err != nil {
			t.Fatal(err)
		}
		for _, s := range view.Sources {
			if s.ID != f.loud.SourceID(quietApps) && s.Limited > 0 {
				t.Errorf("%s was limited: %d", s.ID, s.Limited)
			}
			n += s.Limited
		}
		return n
	}
	f.live(ctx, t, loudRate, func() {
		blackbox.Poll(ctx, t, "the loud app is told three times", func() bool { return f.loudest.Account().Others >= 3 })
	})
	f.checkQuiet(ctx, t)
	dropped := uint64(metric(ctx, t, f.p.Dopplers[0], `doppler_ingress_dropped_total{cause="source_limit"}`))
	blackbox.Poll(ctx, t, "all is announced", func() bool { return limited() == dropped })
	until(ctx, t, f.loudest, "get what was let in", func(a load.Account, _ map[string]load.Place) bool { return a.Received+dropped >= f.sent })
	if a := f.loudest.Account(); a.Received+dropped != f.sent || a.Exact+a.AtLeast+a.Unknown != 0 {
		t.Errorf("the loud app got %d, left out were %d of %d; gaps %v", a.Received, dropped, f.sent, a.GapReasons)
	}
}
