package load

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// server is a gRPC server that decodes what it gets as anybody would.
type server struct {
	loggregatorv2.UnimplementedIngressServer
	mu      sync.Mutex
	ledger  Ledger
	sizes   []int
	sources map[string]int
	batches []int
}

func (s *server) take(envs ...*loggregatorv2.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range envs {
		s.sizes = append(s.sizes, proto.Size(e))
		s.sources[e.GetSourceId()]++
	}
	s.batches = append(s.batches, len(envs))
	records, err := proto.Marshal(&loggregatorv2.EnvelopeBatch{Batch: envs})
	if err != nil {
		return err
	}
	s.ledger.Add(records, time.Now())
	return nil
}

func (s *server) BatchSender(in grpc.ClientStreamingServer[loggregatorv2.EnvelopeBatch, loggregatorv2.BatchSenderResponse]) error {
	for {
		batch, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&loggregatorv2.BatchSenderResponse{})
		}
		if err != nil {
			return err
		}
		if err := s.take(batch.GetBatch()...); err != nil {
			return err
		}
	}
}

func (s *server) Sender(in grpc.ClientStreamingServer[loggregatorv2.Envelope, loggregatorv2.IngressResponse]) error {
	for {
		env, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&loggregatorv2.IngressResponse{})
		}
		if err != nil {
			return err
		}
		if err := s.take(env); err != nil {
			return err
		}
	}
}

func startServer(t *testing.T) (*server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{sources: make(map[string]int), ledger: Ledger{Only: AnySource, Seen: new(Set)}}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(4 << 20))
	loggregatorv2.RegisterIngressServer(g, s)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		<-served
	})
	return s, l.Addr().String()
}

func TestSender(t *testing.T) {
	const count = 5000
	tests := map[string]Plan{
		"reference in batches": {Shape: Reference, Sources: 250, Batch: 100},
		"reference singly":     {Shape: Reference, Sources: 250},
		"random in batches":    {Shape: Random, Sources: 250, Batch: 100},
		"random singly":        {Shape: Random, Sources: 250},
		"one busy source":      {Shape: Reference, Sources: 1, Batch: 100},
	}
	for name, plan := range tests {
		t.Run(name, func(t *testing.T) {
			s, addr := startServer(t)
			total := uint64(0)
			for _, number := range []int{0, 7} {
				sender := NewSender(number)
				for range 2 { // the second run goes on where the first ended
					sent, err := sender.Run(t.Context(), Run{Plan: plan, Addr: addr, Count: count})
					if err != nil {
						t.Fatal(err)
					}
					if plan.Batch == 0 && sent.Envelopes != count {
						t.Errorf("sent %d envelopes, want %d", sent.Envelopes, count)
					}
					total += sent.Envelopes
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			l := &s.ledger
			if l.Received != total || l.Seen.Count() != total || l.Missing+l.Repeated+l.Others+l.Foreign != 0 {
				t.Errorf("of %d: received %d, different %d, missing %d, repeated %d, others %d",
					total, l.Received, l.Seen.Count(), l.Missing, l.Repeated, l.Others)
			}
			if len(s.sources) != plan.Sources || s.sources[plan.SourceID(0)] == 0 {
				t.Errorf("%d sources, want %d, with %q", len(s.sources), plan.Sources, plan.SourceID(0))
			}
			if l.Latency.Count() != total || l.Latency.Quantile(0.5) == 0 {
				t.Errorf("latency of %d, median %s", l.Latency.Count(), l.Latency.Quantile(0.5))
			}
			for _, size := range s.sizes {
				if plan.Shape == Reference && size != 500 || size < minRandom-1 || size > maxRandom+1 {
					t.Fatalf("an envelope of %d bytes", size)
				}
			}
			for _, n := range s.batches {
				if n != max(1, plan.Batch) {
					t.Fatalf("a batch of %d", n)
				}
			}
		})
	}
}

func TestSenderKeepsToItsRate(t *testing.T) {
	for name, plan := range map[string]Plan{
		"batches": {Shape: Reference, Sources: 10, Batch: 10},
		"singles": {Shape: Reference, Sources: 10},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := startServer(t)
			sent, err := NewSender(1).Run(t.Context(), Run{Plan: plan, Addr: addr, Rate: 1000, For: 500 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if sent.Envelopes > 500 || sent.Elapsed < 500*time.Millisecond {
				t.Errorf("sent %d in %s, want no more than 500 in half a second", sent.Envelopes, sent.Elapsed)
			}
		})
	}
}

func TestSenderEndsWithItsContext(t *testing.T) {
	s, addr := startServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	sent, err := NewSender(1).Run(ctx, Run{Plan: Plan{Shape: Reference, Sources: 10, Batch: 10}, Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sent.Envelopes == 0 || s.ledger.Received != sent.Envelopes {
		t.Errorf("sent %d, the server took %d", sent.Envelopes, s.ledger.Received)
	}
}

func TestSenderSaysWhatTheServerSaid(t *testing.T) {
	_, addr := startServer(t)
	_, err := NewSender(1).Run(t.Context(), Run{Plan: Plan{Shape: Random, Sources: 1, Batch: 1000}, Addr: addr, Count: 1000})
	if err == nil {
		t.Fatal("a message over the server's limit went through")
	}
	if !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("error %q does not say why", err)
	}
}

func TestLedger(t *testing.T) {
	const source = 3
	tests := map[string]struct {
		order                       []uint64
		missing, repeated, received uint64
	}{
		"in order":           {order: []uint64{0, 1, 2}, received: 3},
		"a hole":             {order: []uint64{0, 3}, missing: 2, received: 2},
		"doubled":            {order: []uint64{0, 1, 1}, repeated: 1, received: 3},
		"late":               {order: []uint64{0, 2, 1}, missing: 1, repeated: 1, received: 3},
		"begins in between ": {order: []uint64{5}, missing: 5, received: 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			all, err := templates(Plan{Shape: Reference, Sources: 4, Batch: 4}, 9)
			if err != nil {
				t.Fatal(err)
			}
			l := Ledger{Only: source}
			for _, n := range test.order {
				next := []uint64{n, n, n, n}
				all[0].stamp(0, 4, next, time.Now())
				records := all[0].wire[frameHeader+grpcPrefix:]
				quarter := len(records) / 4
				l.Add(records[source*quarter:], time.Now())
			}
			if l.Received != test.received || l.Missing != test.missing || l.Repeated != test.repeated || l.Foreign != 0 {
				t.Errorf("received %d, missing %d, repeated %d, foreign %d; want %d, %d, %d, 0",
					l.Received, l.Missing, l.Repeated, l.Foreign, test.received, test.missing, test.repeated)
			}
		})
	}
}

func BenchmarkStamp(b *testing.B) {
	all, err := templates(Plan{Shape: Reference, Sources: 1000, Batch: 100}, 1)
	if err != nil {
		b.Fatal(err)
	}
	next := make([]uint64, 1000)
	for i := 0; b.Loop(); i++ {
		all[i%len(all)].stamp(0, 100, next, time.Now())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/envelope")
}

func BenchmarkLedger(b *testing.B) {
	all, err := templates(Plan{Shape: Reference, Sources: 1000, Batch: 100}, 1)
	if err != nil {
		b.Fatal(err)
	}
	next := make([]uint64, 1000)
	var batches [][]byte
	for _, t := range all {
		t.stamp(0, 100, next, time.Now())
		var records []byte
		start := 0
		for _, f := range t.frames {
			records = append(records, t.wire[start+frameHeader:f.end]...)
			start = f.end
		}
		batches = append(batches, records[grpcPrefix:])
	}
	l := Ledger{Only: AnySource}
	for i := 0; b.Loop(); i++ {
		l.Add(batches[i%len(batches)], time.Now())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/envelope")
}
