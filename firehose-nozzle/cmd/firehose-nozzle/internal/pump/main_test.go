package pump

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/firehose-nozzle/nozzletest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func lines(from, to int) []*loggregatorv2.Envelope {
	var all []*loggregatorv2.Envelope
	for i := from; i < to; i++ {
		all = append(all, &loggregatorv2.Envelope{SourceId: "a", Timestamp: int64(i)})
	}
	return all
}

// memory is a sink that fails and blocks as it is told to.
type memory struct {
	mu     sync.Mutex
	got    []int64 // timestamps
	again  []bool
	gaps   int
	writes int
	fail   int
	block  chan struct{} // Write waits for it
}

var errSink = errors.New("no space left")

func (m *memory) Write(ctx context.Context, batches []*nozzle.Batch) error {
	m.mu.Lock()
	block := m.block
	m.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return fmt.Errorf("write: %w", ctx.Err())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	if m.fail != 0 {
		m.fail--
		return errSink
	}
	for _, b := range batches {
		m.gaps += len(b.Gaps)
		envelopes, err := b.Decode()
		if err != nil {
			return err
		}
		for _, e := range envelopes {
			m.got = append(m.got, e.GetTimestamp())
			m.again = append(m.again, b.Redelivered)
		}
	}
	return nil
}

func (m *memory) have() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.got)
}

// distinct is what was got, each once, in the order of the first time.
func (m *memory) distinct() []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[int64]bool{}
	return slices.DeleteFunc(slices.Clone(m.got), func(n int64) bool {
		was := seen[n]
		seen[n] = true
		return was
	})
}

type rig struct {
	server *nozzletest.Server
	sink   *memory
	pump   *Pump
	stop   func() error // ends Run and returns its error
	ended  chan struct{}
	reg    *prometheus.Registry
}

func start(t *testing.T, sink *memory, change func(*Config, *nozzle.Config)) *rig {
	t.Helper()
	r := &rig{server: nozzletest.NewServer(), sink: sink, reg: prometheus.NewRegistry(), ended: make(chan struct{})}
	t.Cleanup(r.server.Close)
	cfg := Config{
		Sink: sink, Grace: patience, DeadAfter: time.Millisecond, Registry: r.reg,
		Log: slog.New(slog.DiscardHandler),
	}
	conf := nozzle.Config{Addr: r.server.Addr(), Subscription: "sub"}
	if change != nil {
		change(&cfg, &conf)
	}
	stream, err := nozzle.Open(context.WithoutCancel(t.Context()), conf)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Stream = stream
	r.pump = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.pump.Run(ctx); close(r.ended) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = r.stop() })
	return r
}

func (r *rig) waitAcked(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.server.WaitAcked(ctx, n); err != nil {
		t.Fatal(err)
	}
}

// metric returns the sum of a metric.
func (r *rig) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "firehose_nozzle_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
		return sum
	}
	t.Fatalf("no metric %s", name)
	return 0
}
