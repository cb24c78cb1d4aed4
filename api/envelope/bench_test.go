package envelope_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
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

// randomBatch returns a batch of n random envelopes.
func randomBatch(tb testing.TB, n int, o envelopetest.RandomOptions) []byte {
	tb.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	var msg []byte
	for range n {
		env, err := proto.Marshal(envelopetest.Random(rng, o))
		if err != nil {
			tb.Fatal(err)
		}
		msg = envelope.AppendRecord(msg, env)
	}
	return msg
}

func BenchmarkScanBatch(b *testing.B) {
	random := func(o envelopetest.RandomOptions) func(testing.TB, int) []byte {
		return func(tb testing.TB, n int) []byte { return randomBatch(tb, n, o) }
	}
	sized := func(lo, hi int, classes ...envelope.Class) func(testing.TB, int) []byte {
		return random(envelopetest.RandomOptions{MinSize: lo, MaxSize: hi, Classes: envelope.Mask(classes...)})
	}
	for _, bc := range []struct {
		name  string
		batch func(testing.TB, int) []byte
		n     int
	}{
		{"reference", referenceBatch, 100},
		{"reference-single", referenceBatch, 1},
		{"tiny", sized(30, 30, envelope.Log, envelope.Counter), 100},
		{"60KB-single", sized(60_000, 60_000, envelope.Log), 1},
		{"logs", sized(300, 700, envelope.Log), 100},
		{"gauges", sized(300, 700, envelope.ContainerGauge, envelope.Gauge), 100},
		{"timers", sized(300, 700, envelope.HTTPTimer), 100},
		{"all-kinds", sized(300, 700), 100},
		{"all-sizes", random(envelopetest.RandomOptions{}), 100},
	} {
		b.Run(bc.name, func(b *testing.B) { benchmarkScan(b, bc.batch(b, bc.n), bc.n) })
	}
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

// What the scan is there to avoid.
func BenchmarkUnmarshalReference(b *testing.B) {
	env := envelopetest.Reference()
	b.ReportAllocs()
	for b.Loop() {
		if err := proto.Unmarshal(env, &loggregatorv2.Envelope{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReaders(b *testing.B) {
	env := envelopetest.Reference()
	gauge := []byte(str(6, container()))
	names := []string{"requests", "disk_quota"}
	records := referenceBatch(b, 100)
	b.Run("timestamp", func(b *testing.B) {
		for b.Loop() {
			envelope.Timestamp(env)
		}
	})
	b.Run("source-id", func(b *testing.B) {
		for b.Loop() {
			envelope.SourceID(env)
		}
	})
	b.Run("match-name", func(b *testing.B) {
		for b.Loop() {
			envelope.MatchName(gauge, names)
		}
	})
	b.Run("walk-100", func(b *testing.B) {
		for b.Loop() {
			for range envelope.Walk(records) {
			}
		}
	})
}
