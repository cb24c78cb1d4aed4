package recent

import (
	"fmt"
	"math"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// BenchmarkOffer is what an envelope costs that the ring lets go of: from
// 1,000 sources, 500 bytes each.
func BenchmarkOffer(b *testing.B) {
	for _, bench := range []struct {
		name  string
		bytes int64
		newer uint64
	}{
		{"kept", 1 << 30, 0},              // each source at its limit
		{"kept-over-budget", 64 << 20, 0}, // each source at its share
		{"skipped", 64 << 20, 1000},       // as of busy sources: newer ones are in the ring
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := newStore(b, Config{Bytes: bench.bytes, Logs: 500, Metrics: 100})
			ids := make([]string, 1000)
			for i := range ids {
				ids[i] = fmt.Sprintf("f47ac10b-58cc-4372-a567-0e02b2c3d%03d", i)
			}
			env := content(1, 500)
			offset := uint64(0)
			offer := func(n int) {
				s.Begin()
				defer s.End()
				for range n {
					s.Offer(ids[offset%1000], envelope.Log, offset/1000, bench.newer, offset, env)
					offset++
				}
			}
			offer(600_000)
			b.SetBytes(500)
			b.ReportAllocs()
			b.ResetTimer()
			offer(b.N)
		})
	}
}

func BenchmarkRead(b *testing.B) {
	s := newStore(b, Config{Bytes: 64 << 20, Logs: 1000, Metrics: 100})
	env := content(1, 500)
	s.Begin()
	for i := range uint64(50_000) {
		s.Offer(fmt.Sprint("s", i%10), envelope.Log, i/10, 0, i, env)
	}
	s.End()
	for _, limit := range []int{10, 1000} {
		b.Run(fmt.Sprint("newest", limit), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				s.Read("s3", envelope.AllClasses, 0, math.MaxUint64, limit, [envelope.NumClasses]uint64{},
					func(uint64, envelope.Class, []byte) { n++ })
				if n != limit {
					b.Fatal(n)
				}
			}
		})
	}
}
