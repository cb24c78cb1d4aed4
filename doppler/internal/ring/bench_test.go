package ring

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
)

// benchBatch is a scanned message.
type benchBatch struct {
	msg  []byte
	recs []envelope.Record
}

// benchBatches makes messages of reference envelopes: count in all, per in
// each, whose sources go round.
func benchBatches(b *testing.B, count, per, sources int) []benchBatch {
	b.Helper()
	stamps := make([]*envelopetest.Stamp, sources)
	for i := range stamps {
		s, err := envelopetest.NewStamp(envelopetest.Source(i))
		if err != nil {
			b.Fatal(err)
		}
		stamps[i] = s
	}
	var out []benchBatch
	for seq := 0; seq < count; {
		var msg []byte
		for range per {
			msg = stamps[seq%sources].AppendRecord(msg, uint64(seq), time.Unix(1_700_000_000, 0))
			seq++
		}
		recs, dropped := envelope.ScanBatch(msg, envelope.Limits{}, nil)
		if len(recs) != per {
			b.Fatalf("scanned %d of %d records: %+v", len(recs), per, dropped)
		}
		out = append(out, benchBatch{msg, recs})
	}
	return out
}

func benchRing(b *testing.B) *Ring {
	b.Helper()
	r, err := New(Config{Bytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Close)
	return r
}

// fill appends until the ring evicts, so that all memory is there.
func fill(r *Ring, batches []benchBatch) {
	for i := 0; r.Oldest() == 0; i++ {
		m := &batches[i%len(batches)]
		r.Append(m.msg, m.recs)
	}
}

// cpu is the processor time this process has used, which a busy machine
// disturbs less than the clock on the wall.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(b *testing.B, envelopes int, began time.Duration) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(envelopes), "ns/envelope")
	b.ReportMetric(float64((cpu(b)-began).Nanoseconds())/float64(envelopes), "cpu-ns/envelope")
}

// BenchmarkAppend measures one copy into a full ring, eviction included.
func BenchmarkAppend(b *testing.B) {
	for _, bench := range []struct{ per, sources int }{{100, 1000}, {100, 1}, {100, 50_000}, {1, 1000}} {
		b.Run(fmt.Sprintf("batch=%d/sources=%d", bench.per, bench.sources), func(b *testing.B) {
			batches := benchBatches(b, max(1000, bench.sources), bench.per, bench.sources)
			r := benchRing(b)
			fill(r, batches)
			b.ReportAllocs()
			i, began := 0, cpu(b)
			for b.Loop() {
				m := &batches[i%len(batches)]
				r.Append(m.msg, m.recs)
				i++
			}
			report(b, b.N*bench.per, began)
		})
	}
}

// BenchmarkAppendParallel has two appenders and somebody who evicts ahead.
func BenchmarkAppendParallel(b *testing.B) {
	batches := benchBatches(b, 1000, 100, 1000)
	r := benchRing(b)
	fill(r, batches)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-r.Notify():
				r.EvictAhead()
			case <-done:
				return
			}
		}
	}()
	b.ReportAllocs()
	b.ResetTimer()
	began := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			m := &batches[i%len(batches)]
			r.Append(m.msg, m.recs)
		}
	})
	report(b, b.N*100, began)
	close(done)
	<-ended
}

// BenchmarkAcquire measures a look at one run of envelopes.
func BenchmarkAcquire(b *testing.B) {
	batches := benchBatches(b, 1000, 100, 1000)
	r := benchRing(b)
	fill(r, batches)
	span := r.Head() - r.Oldest()
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		c, err := r.Acquire(r.Oldest() + i*997%span)
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
	}
}

// BenchmarkEvict measures what an envelope's end costs beyond its append,
// with a hook that reads as much of it as the recent store does at least.
func BenchmarkEvict(b *testing.B) {
	for _, hook := range []bool{false, true} {
		b.Run(fmt.Sprintf("hook=%v", hook), func(b *testing.B) {
			var bytes uint64
			cfg := Config{Bytes: 64 << 20}
			if hook {
				cfg.OnEvict = func(e Evicted) { bytes += uint64(len(e.Env)) }
			}
			r, err := New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			batches := benchBatches(b, 1000, 100, 1000)
			fill(r, batches)
			b.ReportAllocs()
			var spent time.Duration
			before := r.Oldest()
			for i := 0; b.Loop(); i++ {
				for len(r.free) < 8 {
					began := time.Now()
					r.evictOldest(false)
					spent += time.Since(began)
				}
				m := &batches[i%len(batches)]
				r.Append(m.msg, m.recs)
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(r.Oldest()-before), "ns/envelope")
		})
	}
}
