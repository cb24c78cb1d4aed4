package soak

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// sample is what a service takes at one moment.
type sample struct {
	resident, heap          int64 // bytes
	goroutines, descriptors int
}

func measure(ctx context.Context, t *testing.T, s *pipeline.Service) sample {
	t.Helper()
	u, err := s.Usage()
	if err != nil {
		t.Fatal(err)
	}
	metric := func(name string) float64 { return blackbox.Metric(ctx, t, s, name) }
	return sample{
		resident: u.Resident, heap: int64(metric("go_memstats_heap_inuse_bytes")),
		goroutines: int(metric("go_goroutines")), descriptors: int(metric("process_open_fds")),
	}
}

// meter keeps the samples of a service.
type meter struct {
	service  *pipeline.Service
	baseline sample // before the visitors
	samples  []sample
}

// window is the median of each figure in a part of the samples, from and to in
// quarters.
func (m *meter) window(from, to int) sample {
	part := m.samples[len(m.samples)*from/4 : len(m.samples)*to/4]
	median := func(figure func(sample) int64) int64 {
		list := make([]int64, len(part))
		for i, s := range part {
			list[i] = figure(s)
		}
		slices.Sort(list)
		return list[len(list)/2]
	}
	return sample{
		resident:    median(func(s sample) int64 { return s.resident }),
		heap:        median(func(s sample) int64 { return s.heap }),
		goroutines:  int(median(func(s sample) int64 { return int64(s.goroutines) })),
		descriptors: int(median(func(s sample) int64 { return int64(s.descriptors) })),
	}
}

// meters samples services every second until stopped.
type meters []*meter

func (all meters) run(ctx context.Context, t *testing.T) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, m := range all {
			m.samples = append(m.samples, measure(context.WithoutCancel(ctx), t, m.service))
		}
	}
}

// change is how much b is more than a, of a.
func change(a, b int64) float64 { return float64(b-a) / float64(a) }

const mebi = 1 << 20

// table shows the second and the last quarter, and the end.
func (all meters) table(ctx context.Context, t *testing.T) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%-14s %30s %30s %22s %22s\n", "", "resident MiB", "heap in use MiB", "goroutines", "descriptors")
	for _, m := range all {
		a, b, end := m.window(1, 2), m.window(3, 4), measure(ctx, t, m.service)
		fmt.Fprintf(&out, "%-14s %8.1f -> %8.1f (%+5.1f %%) %8.1f -> %8.1f (%+5.1f %%) %6d, %4d -> %4d %6d, %4d -> %4d\n", m.service.Name,
			float64(a.resident)/mebi, float64(b.resident)/mebi, 100*change(a.resident, b.resident),
			float64(a.heap)/mebi, float64(b.heap)/mebi, 100*change(a.heap, b.heap),
			b.goroutines, m.baseline.goroutines, end.goroutines, b.descriptors, m.baseline.descriptors, end.descriptors)
	}
	out.WriteString("memory: medians of the second and of the last quarter; the others: under load, then before the visitors -> after them\n")
	return out.String()
}
