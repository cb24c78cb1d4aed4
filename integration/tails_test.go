package integration

import (
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// TestTailsGetTheirAppAndNothingElse has a tail for each of 1,000 apps, and 100
// tails of one busy app, on two Dopplers.
func TestTailsGetTheirAppAndNothingElse(t *testing.T) {
	const apps, copies = 1000, 100
	perApp, busyCount, busyRate := uint64(20), uint64(5000), 1000.0
	conf := pipeline.Config{Dopplers: 2, Controllers: 1,
		// A hundred readers of one process may come to read late.
		ControllerArgs: []string{"--tail-queue-bytes", "64MiB", "--tails-queue-bytes", "512MiB"}}
	if full {
		perApp, busyCount, busyRate = 5*30, 5000*30, 5000
		conf.ControllerArgs = nil
	}
	ctx := deadline(t)
	p := start(t, conf)
	// From before the first envelope on, so that it does not matter when the
	// Traffic Controller has joined the source at each Doppler.
	since := url.Values{"since": {strconv.FormatInt(time.Now().UnixNano(), 10)}}
	many := load.Plan{Shape: load.Reference, Sources: apps, Batch: 100}
	busy := load.Plan{Shape: load.Reference, First: apps, Sources: 1, Batch: 100}
	type tail struct {
		*load.Reader
		source int
	}
	var tails []tail
	open := func(plan load.Plan, source int) {
		tails = append(tails, tail{source: source, Reader: read(ctx, t, load.ReaderConfig{
			URL: p.URL(0), SourceID: plan.SourceID(source), Source: source, Query: since,
		})})
	}
	for i := range apps {
		open(many, i)
	}
	for range copies {
		open(busy, apps)
	}
	var both sync.WaitGroup
	senders := newSenders(4)
	both.Go(func() {
		send(ctx, t, senders[:2], p.Dopplers, sending{Plan: many, Count: apps * perApp, Rate: 5000})
	})
	both.Go(func() {
		send(ctx, t, senders[2:], p.Dopplers, sending{Plan: busy, Count: busyCount, Rate: busyRate})
	})
	both.Wait()
	for i, tail := range tails {
		expected := uint64(0)
		for _, s := range senders {
			expected += s.Sent(tail.source)
		}
		complete(ctx, t, fmt.Sprintf("tail %d of source %d", i, tail.source), tail.Reader, expected)
	}
}
