package nozzle_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// perBatch fills a batch of 64 KiB with the reference envelope.
const perBatch = 128

// flood sends n batches as fast as the socket takes them, and throws acks
// away.
func flood(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := stream.Accept(w, r, stream.AcceptOptions{Subprotocols: []string{stream.Subprotocol}})
		if err != nil {
			return
		}
		go func() {
			for {
				buf, err := c.Read(context.Background())
				if err != nil {
					c.CloseNow()
					return
				}
				buf.Release()
			}
		}()
		var records []byte
		for range perBatch {
			records = envelope.AppendRecord(records, envelopetest.Reference())
		}
		for i := range uint64(n) {
			first := i * perBatch
			meta, err := stream.AppendBatchMeta(nil, &streampb.Batch{
				Lease:    &streampb.Lease{Id: i + 1},
				Position: &streampb.Position{Doppler: "doppler-0", Epoch: 1, First: first, Count: perBatch, Matched: first, Next: first + perBatch},
			})
			if err != nil {
				return
			}
			head := stream.AppendFrameHeader(nil, len(meta)+len(records))
			if c.WriteFrames([][]byte{head, meta, records}, nil, time.Minute) != nil {
				return
			}
		}
	}
}

// BenchmarkRecv is the whole way of an envelope through the SDK, with a server
// in the same process: read, walk, ack.
func BenchmarkRecv(b *testing.B) {
	server := httptest.NewServer(flood(b.N/perBatch + 1))
	defer server.Close()
	s, err := nozzle.Open(b.Context(), nozzle.Config{Addr: server.URL, Subscription: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.SetBytes(envelopetest.ReferenceSize)
	b.ReportAllocs()
	for got := 0; got < b.N; {
		batch, err := s.Recv(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for id, env := range batch.All() {
			if id.Offset != uint64(got) || len(env) != envelopetest.ReferenceSize {
				b.Fatalf("envelope %d is %v", got, id)
			}
			got++
		}
		batch.Ack()
		batch.Release()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "envelopes/s")
}
