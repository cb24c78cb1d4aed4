package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/firehose-nozzle/cmd/firehose-nozzle/internal/pump"
)

const perBatch = 128

// endless is a stream that has the same batch again and again until n
// envelopes are out.
type endless struct {
	records []byte
	n, next int
}

func (e *endless) Recv(ctx context.Context) (*nozzle.Batch, error) {
	if e.next >= e.n {
		return nil, &nozzle.Error{Code: nozzle.CodeClosed}
	}
	at := &streampb.Position{Doppler: "doppler-0", Epoch: 1, First: uint64(e.next), Count: perBatch}
	e.next += perBatch
	return &nozzle.Batch{Position: at, Envelopes: e.records}, ctx.Err()
}

func (e *endless) Cursor() string        { return "" }
func (e *endless) Status() nozzle.Status { return nozzle.Status{Connected: true} }
func (e *endless) Close() error          { return nil }

// BenchmarkFile is all the service does with an envelope it has received,
// the disk included.
func BenchmarkFile(b *testing.B) {
	for _, format := range []string{"json", "text"} {
		for _, fsync := range []string{"never", "always"} {
			b.Run(format+"/fsync="+fsync, func(b *testing.B) {
				cfg := defaults()
				cfg.sink, cfg.format, cfg.fsync, cfg.file = "file", format, fsync, filepath.Join(b.TempDir(), "out")
				cfg.rotateBytes, cfg.keep = 256<<20, 1
				out, closeSink, err := openSink(cfg, slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = closeSink() }()
				stream := &endless{n: b.N}
				for range perBatch {
					stream.records = envelope.AppendRecord(stream.records, envelopetest.Reference())
				}
				p := pump.New(pump.Config{
					Stream: stream, Sink: out, Grace: patience, DeadAfter: patience,
					Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
				})
				b.SetBytes(envelopetest.ReferenceSize)
				b.ReportAllocs()
				b.ResetTimer()
				if err := p.Run(b.Context()); nozzle.CodeOf(err) != nozzle.CodeClosed {
					b.Fatal(err)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "envelopes/s")
			})
		}
	}
}
