package reader

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

const benchSources = 1000

// benchRing is full of reference envelopes of 1,000 sources that take turns;
// one in ten is a counter.
func benchRing(b *testing.B) *ring.Ring {
	b.Helper()
	r, err := ring.New(ring.Config{Bytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Close)
	var stamps [benchSources]*envelopetest.Stamp
	for i := range stamps {
		if stamps[i], err = envelopetest.NewStamp(envelopetest.Source(i)); err != nil {
			b.Fatal(err)
		}
	}
	for seq := 0; r.Oldest() == 0; {
		var msg []byte
		for range 100 {
			msg = stamps[seq%benchSources].AppendRecord(msg, uint64(seq), time.Unix(1_700_000_000, 0))
			seq++
		}
		recs, _ := envelope.ScanBatch(msg, envelope.Limits{}, nil)
		for i := range recs {
			if i%10 == 9 {
				recs[i].Class = envelope.Counter
			}
		}
		r.Append(msg, recs)
	}
	return r
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

// report says what the reader cost per envelope of the ring it walked, and
// per envelope it delivered.
func report(b *testing.B, walked, delivered uint64, began time.Duration) {
	spent := float64((cpu(b) - began).Nanoseconds())
	b.ReportMetric(spent/float64(walked), "cpu-ns/walked")
	b.ReportMetric(spent/float64(delivered), "cpu-ns/delivered")
	b.ReportMetric(float64(delivered)/float64(b.N), "envelopes/op")
}

// BenchmarkGroupNext measures a member's round: Next, Release, Sent, Ack.
func BenchmarkGroupNext(b *testing.B) {
	hundred := make([]string, 100)
	for i := range hundred {
		hundred[i] = envelopetest.Source(i * 10)
	}
	for _, bench := range []struct {
		name    string
		filter  Filter
		members int
	}{
		{"all", Filter{{Mask: envelope.AllClasses}}, 1},
		{"all/members=3", Filter{{Mask: envelope.AllClasses}}, 3},
		{"class=log", Filter{{Mask: envelope.Mask(envelope.Log)}}, 1},
		{"class=counter", Filter{{Mask: envelope.Mask(envelope.Counter)}}, 1},
		{"sources=1", Filter{{Mask: envelope.AllClasses, Sources: hundred[:1]}}, 1},
		{"sources=100", Filter{{Mask: envelope.AllClasses, Sources: hundred}}, 1},
		{"name", Filter{{Mask: envelope.AllClasses, Names: []string{"requests"}}}, 1},
	} {
		b.Run(bench.name, func(b *testing.B) {
			log := benchRing(b)
			now := time.Unix(1_800_000_000, 0)
			var g *Group
			var members []*Member
			open := func() {
				if g != nil {
					g.Close()
				}
				g = NewGroup(log, bench.filter, Config{}, Start{Place: PlaceOffset, Offset: log.Oldest()})
				members = nil
				for range bench.members {
					members = append(members, g.Join(now, true))
				}
			}
			open()
			var walked, delivered uint64
			b.ReportAllocs()
			began := cpu(b)
			for i := 0; b.Loop(); i++ {
				m := members[i%len(members)]
				from := g.Mark()
				grant, status, _ := g.Next(now, m)
				walked += g.Mark() - from
				switch status {
				case Granted:
					delivered += uint64(grant.Count)
					grant.Release()
					g.Sent(m, grant.Lease)
					g.Ack(now, m, grant.First, grant.Next-1)
				case Idle:
					open()
				}
			}
			report(b, walked, max(delivered, 1), began)
			g.Close()
		})
	}
}

// BenchmarkLinkNext measures a batch of a tail link.
func BenchmarkLinkNext(b *testing.B) {
	for _, watched := range []int{1000, 100, 10, 1} {
		b.Run(fmt.Sprintf("watched=%d", watched), func(b *testing.B) {
			log := benchRing(b)
			var l *Link
			open := func() {
				if l != nil {
					l.Close()
				}
				// Not behind by so much that it skips.
				l = NewLink(log, LinkConfig{ShareBytes: 1 << 40}, Start{Place: PlaceOffset, Offset: log.Oldest()})
				for i := range watched {
					l.Add(1, uint32(i), envelopetest.Source(i*benchSources/watched), nil)
				}
				l.Next()
			}
			open()
			var walked, delivered uint64
			b.ReportAllocs()
			began := cpu(b)
			for b.Loop() {
				from := l.Cursor()
				batch, more := l.Next()
				walked += l.Cursor() - from
				delivered += uint64(batch.Count)
				batch.Release()
				if !more && batch.Count == 0 {
					b.StopTimer()
					paused := cpu(b)
					open()
					began += cpu(b) - paused
					b.StartTimer()
				}
			}
			report(b, walked, delivered, began)
			l.Close()
		})
	}
}
