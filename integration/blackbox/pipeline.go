package blackbox

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// Start starts a pipeline that is stopped when the test ends, and whose
// services have to end well. Their own metrics are off, so that every envelope
// is one a test has sent.
func Start(t *testing.T, conf pipeline.Config) *pipeline.Pipeline {
	t.Helper()
	conf.Binaries = Programs
	conf.DopplerArgs = append([]string{"--metric-interval", "0", "--ring-bytes", "128MiB", "--recent-bytes", "16MiB"}, conf.DopplerArgs...)
	p, err := pipeline.Start(Deadline(t), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, s := range slices.Concat(p.Dopplers, p.Controllers) {
				t.Logf("%s:\n%s", s.Name, s.Log())
			}
		}
	})
	return p
}

// Sending describes what a test sends.
type Sending struct {
	load.Plan
	Count uint64 // to each Doppler; 0 is no limit
	Rate  float64
}

// Send sends to all Dopplers at once, sender number i to Doppler i, and returns
// what they confirmed.
func Send(ctx context.Context, t *testing.T, senders []*load.Sender, dopplers []*pipeline.Service, s Sending) uint64 {
	t.Helper()
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		total uint64
	)
	for i, sender := range senders {
		run := load.Run{Plan: s.Plan, Addr: dopplers[i%len(dopplers)].Addrs[pipeline.GRPC], Count: s.Count, Rate: s.Rate}
		all.Go(func() {
			sent, err := sender.Run(ctx, run)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += sent.Envelopes
		})
	}
	all.Wait()
	return total
}

// NewSenders returns n senders, numbered from 0 on.
func NewSenders(n int) []*load.Sender {
	all := make([]*load.Sender, n)
	for i := range all {
		all[i] = load.NewSender(i)
	}
	return all
}

// Launch starts a program that is killed when the test ends, if it still runs.
func Launch(t *testing.T, name string, c process.Command) *process.Process {
	t.Helper()
	c.Path = Programs.Path(name)
	p, err := process.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// Finish waits for a program to end by itself with code 0.
func Finish(ctx context.Context, t *testing.T, p *process.Process) {
	t.Helper()
	code, err := p.Wait(ctx)
	if err != nil || code != 0 {
		t.Fatalf("%s: code %d, %v:\n%s", p.Name(), code, err, p.Log())
	}
}
