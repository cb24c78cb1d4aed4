package fanout

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// sink is a connection that takes everything.
type sink struct{ bytes int }

func (s *sink) WriteFrames(bufs [][]byte, release func(bool), _ time.Duration) error {
	for _, b := range bufs {
		s.bytes += len(b)
	}
	release(false)
	return nil
}

func (s *sink) Close(stream.CloseCode, string) error { return nil }

// BenchmarkHub cuts link batches of 100 reference envelopes and writes them
// to the tails. The time is that of one envelope that comes in.
func BenchmarkHub(b *testing.B) {
	for _, old := range []bool{false, true} {
		for _, test := range []struct{ sources, tails int }{{1, 1}, {1, 100}, {100, 1}, {1000, 1}} {
			b.Run(fmt.Sprintf("old=%v/sources=%d/tails=%d", old, test.sources, test.tails), func(b *testing.B) {
				benchmarkHub(b, test.sources, test.tails, old)
			})
		}
	}
}

func benchmarkHub(b *testing.B, sources, tails int, old bool) {
	hub, err := NewHub(Config{
		Name: "tc", TailBytes: 1 << 20, AllBytes: 256 << 20, GatherWithin: time.Second, LostAfter: time.Second, Heartbeat: time.Second,
		Read: func(Read) {}, Ready: func(*Tail) {}, End: func(*Tail, stream.CloseCode, string) {},
	}, time.Now(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	pump := &Pump{hub: hub, cfg: PumpConfig{StuckTimeout: time.Second}, workers: 1}
	pump.cfg.OldTimeout = time.Second
	pump.ctx, pump.stop = context.WithCancel(b.Context())
	defer pump.stop()
	var ready []*Tail
	hub.cfg.Ready = func(t *Tail) { ready = append(ready, t) }
	if err := hub.Connected("d:1", &streampb.Hello{Server: "d", Epoch: 1}, func() {}); err != nil {
		b.Fatal(err)
	}
	batch := &streampb.Batch{}
	for s := range sources {
		for range tails {
			hub.Open(&sink{}, Options{Source: fmt.Sprint("source-", s), Filter: NewFilter(envelope.AllClasses, nil), Old: old})
		}
	}
	for w := hub.Watch("d:1"); w != nil; w = hub.Watch("d:1") {
		for _, a := range w.Add {
			batch.Watching = append(batch.Watching, &streampb.Watching{SourceId: a.SourceId, Watch: a.Watch, ClassCounts: make([]uint64, 9)})
		}
	}
	const size = 100
	p := &streampb.Position{Doppler: "d", Epoch: 1, Count: size}
	var records []byte
	for i := range size {
		p.Watches = append(p.Watches, uint32(i%sources)+1)
		p.Classes = append(p.Classes, byte(envelope.Log))
		records = envelope.AppendRecord(records, envelopetest.Reference())
	}
	batch.Position = p
	f := &flusher{pump: pump, maker: maker{budget: hub.budget, now: time.Now}}
	b.SetBytes(int64(len(records)) / size)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%size != 0 {
			continue
		}
		for i := range p.Watches {
			p.Watches[i] = uint32((n+i)%sources) + 1
		}
		p.First, p.Next = uint64(n), uint64(n+size)
		if err := hub.Batch("d:1", batch, records); err != nil {
			b.Fatal(err)
		}
		batch.Watching = nil
		for _, t := range ready {
			f.flush(t)
		}
		ready = ready[:0]
	}
}
