package egress

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// BenchmarkOldFraming is what the old form of an envelope costs a call beside
// gRPC, its copy out of the ring included.
func BenchmarkOldFraming(b *testing.B) {
	var lease []byte
	const count = 250
	for range count {
		lease = envelope.AppendRecord(lease, envelopetest.Reference())
	}
	f := &oldFraming{batch: oldBatch}
	send := func(m *callMessage) error {
		m.Encoded().Free()
		return nil
	}
	b.SetBytes(int64(len(lease) / count))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%count == 0 {
			f.Take(nil, [][]byte{lease})
			if err := f.Send(send); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkCall has one reader over loopback that does not look at what it
// gets. One operation is an envelope; the time is that of both ends.
func BenchmarkCall(b *testing.B) {
	all := &loggregatorv2.EgressBatchRequest{Selectors: []*loggregatorv2.Selector{{Message: &loggregatorv2.Selector_Log{}}}}
	b.Run("v1 batches", func(b *testing.B) {
		benchmarkCall(b, plumbingpb.Doppler_BatchSubscribe_FullMethodName, &plumbingpb.SubscriptionRequest{})
	})
	b.Run("v1 single", func(b *testing.B) {
		benchmarkCall(b, plumbingpb.Doppler_Subscribe_FullMethodName, &plumbingpb.SubscriptionRequest{})
	})
	b.Run("v2 batches", func(b *testing.B) { benchmarkCall(b, loggregatorv2.Egress_BatchedReceiver_FullMethodName, all) })
}

// counter counts the envelopes in messages.
type counter struct{ mem.BufferSlice }

type countCodec struct{ encoding.CodecV2 }

func (c countCodec) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref()
	v.(*counter).BufferSlice = data
	return nil
}

func benchmarkCall(b *testing.B, method string, request any) {
	log, err := ring.New(ring.Config{Bytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	s := New(log, noRecent{}, Config{
		Doppler: "d", Epoch: 1, Linger: time.Minute, WindowBytes: 2 << 20, AckTimeout: time.Minute, StuckTimeout: time.Minute,
		Heartbeat: time.Minute, MaxWatches: 1, MaxSubscriptions: 1, SocketBuffer: 256 << 10,
	}, slog.New(slog.DiscardHandler), func() (uint64, uint64) { return 0, 0 })
	go func() { _ = s.Run(b.Context()) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	proto := encoding.GetCodecV2("proto")
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec{proto}), grpc.WriteBufferSize(64<<10))
	s.Register(server)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(countCodec{proto})))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	calls, err := conn.NewStream(b.Context(), &grpc.StreamDesc{ServerStreams: true}, method)
	if err == nil {
		err = calls.SendMsg(request)
	}
	if err != nil {
		b.Fatal(err)
	}
	var batch []byte
	for range 100 {
		batch = envelope.AppendRecord(batch, envelopetest.Reference())
	}
	recs, _ := envelope.ScanBatch(batch, envelope.Limits{}, nil)
	b.SetBytes(int64(len(envelopetest.Reference())))
	b.ReportAllocs()
	sent, got := 0, 0
	for b.Loop() {
		for ; sent-got < 20_000; sent += len(recs) {
			log.Append(batch, recs)
		}
		if got > 0 {
			got--
			sent--
			continue
		}
		var m counter
		if err := calls.RecvMsg(&m); err != nil {
			b.Fatal(err)
		}
		for msg := m.Materialize(); ; got++ {
			_, rest, ok := envelope.Next(msg)
			if !ok {
				break
			}
			msg = rest
		}
		m.Free()
	}
}
