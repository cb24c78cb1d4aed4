package envelope_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
)

var now = time.Unix(0, envelopetest.ReferenceTime)

// referenceBatch returns a batch of n reference envelopes of n sources.
func referenceBatch(tb testing.TB, n int) []byte {
	tb.Helper()
	var msg []byte
	for i := range n {
		s, err := envelopetest.NewStamp(envelopetest.Source(i))
		if err != nil {
			tb.Fatal(err)
		}
		msg = s.AppendRecord(msg, uint64(i), now)
	}
	return msg
}

// benchmarkScan scans msg, a batch of n envelopes.
func benchmarkScan(b *testing.B, msg []byte, n int) {
	b.Helper()
	records := make([]envelope.Record, 0, n)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		var d envelope.Dropped
		records, d = envelope.ScanBatch(msg, envelope.Limits{}, records[:0])
		if len(records) != n || d != (envelope.Dropped{}) {
			b.Fatalf("%d records, %+v", len(records), d)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/envelope")
}

func BenchmarkScanBatchReference(b *testing.B) { benchmarkScan(b, referenceBatch(b, 100), 100) }
func BenchmarkScanBatchSingle(b *testing.B)    { benchmarkScan(b, referenceBatch(b, 1), 1) }

var _ = rand.New
