package chaos

import (
	"context"
	"fmt"
	neturl "net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// What a stalled neighbour may cost, as the median over the rounds of one run.
// Where others use the machine too, latencies say less.
var (
	leastRate   = 0.95
	mostLatency = pick(1.2, 3.0)
)

const neighbours = 10

// TestStalledNeighbour has ten readers, one of which stops reading for a while,
// again and again: the others get as much as before, and as soon.
func TestStalledNeighbour(t *testing.T) {
	plan := load.Plan{Shape: load.Reference, Sources: 2, Batch: 10}
	for kind, test := range map[string]struct {
		conf func(i int) load.ReaderConfig
		rate float64
		// held is what waits somewhere for readers that stopped.
		held func(ctx context.Context, t *testing.T, p *pipeline.Pipeline) float64
	}{
		"Firehose": {
			conf: func(i int) load.ReaderConfig {
				return load.ReaderConfig{Subscription: fmt.Sprintf("neighbour-%d", i), Ack: i%2 == 0}
			},
			rate: pick(20_000.0, 2_000),
			held: func(ctx context.Context, t *testing.T, p *pipeline.Pipeline) (lag float64) {
				for _, s := range blackbox.Subscriptions(ctx, t, p.Dopplers[0]) {
					if s.Shard == fmt.Sprintf("neighbour-%d", neighbours-1) {
						lag += float64(s.Lag + s.InFlight)
					}
				}
				return lag
			},
		},
		"tails": {
			conf: func(int) load.ReaderConfig {
				return load.ReaderConfig{SourceID: plan.SourceID(0), Query: neturl.Values{"recent": {"1000"}}}
			},
			rate: pick(20_000.0, 4_000),
			held: func(ctx context.Context, t *testing.T, p *pipeline.Pipeline) float64 {
				return blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_tails_queue_bytes")
			},
		},
	} {
		t.Run(kind, func(t *testing.T) {
			ctx := blackbox.Deadline(t)
			p := blackbox.Start(t, pipeline.Config{
				Dopplers: 1, Controllers: 1, ControllerArgs: []string{"--socket-buffer-bytes", strconv.Itoa(socketBuffer)},
			})
			var readers []*load.Reader
			for i := range neighbours {
				conf := test.conf(i)
				conf.URL, conf.SocketBuffer = p.URL(0), socketBuffer
				readers = append(readers, blackbox.Firehose(ctx, t, 1, conf))
			}
			startFlow(ctx, t, blackbox.NewSenders(1), p, blackbox.Sending{Plan: plan, Rate: test.rate})
			rates, latencies := stallAgain(ctx, t, readers, func() {
				if test.held(ctx, t, p) == 0 {
					t.Error("nothing waits for the one that stopped, so nothing is proved")
				}
			})
			t.Logf("with a stalled neighbour, as a part of without: rates %.3f, 99th percentiles of latency %.2f", rates, latencies)
			if r := median(rates); r < leastRate {
				t.Errorf("the others get %.3f of what they got before, less than %v", r, leastRate)
			}
			if l := median(latencies); l > mostLatency {
				t.Errorf("of the others 99 %% wait %.2f times as long as before, more than %v", l, mostLatency)
			}
		})
	}
}

// stallAgain measures the readers but the last while that reads and while it does
// not, in turn. stalled is called while it does not.
func stallAgain(ctx context.Context, t *testing.T, readers []*load.Reader, stalled func()) (rates, latencies []float64) {
	t.Helper()
	healthy, last := readers[:len(readers)-1], readers[len(readers)-1]
	measure(healthy) // for things to settle
	for range 13 {
		rate, latency := measure(healthy)
		last.Pause()
		stalledRate, stalledLatency := measure(healthy)
		stalled()
		had := healthy[0].Account().Received
		if err := last.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		blackbox.Until(ctx, t, last, "catch up", func(a load.Account, _ map[string]load.Place) bool { return a.Received+a.Exact >= had })
		rates, latencies = append(rates, stalledRate/rate), append(latencies, stalledLatency/latency)
	}
	return rates, latencies
}

// measure lets time pass and returns envelopes per second and the 99th
// percentile of latency, of all readers together.
func measure(readers []*load.Reader) (rate, latency float64) {
	before := uint64(0)
	for _, r := range readers {
		r.Latency(true)
		before += r.Account().Received
	}
	began := time.Now()
	time.Sleep(pick(3*time.Second, time.Second/2))
	after, all := uint64(0), new(load.Histogram)
	for _, r := range readers {
		if h := r.Latency(true); h != nil {
			all.Merge(h)
		}
		after += r.Account().Received
	}
	return float64(after-before) / time.Since(began).Seconds(), float64(all.Quantile(0.99))
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
