package emit_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a Doppler's ingress.
type server struct {
	loggregatorv2.UnimplementedIngressServer
	// batch may end the stream with an error; n counts batches over all
	// streams from 1. finish is the server's last word.
	batch  func(n int) error
	finish func(loggregatorv2.Ingress_BatchSenderServer) error

	mu      sync.Mutex
	batches []int
	got     []*loggregatorv2.Envelope
	streams int
}

// listen serves on addr (":0" for any port) until the test ends or stop is
// called.
func (s *server) listen(t *testing.T, addr string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(10 << 20))
	loggregatorv2.RegisterIngressServer(g, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { g.Stop(); <-done })
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func (s *server) BatchSender(stream loggregatorv2.Ingress_BatchSenderServer) error {
	s.mu.Lock()
	s.streams++
	s.mu.Unlock()
	for {
		b, err := stream.Recv()
		if err == io.EOF {
			if s.finish != nil {
				return s.finish(stream)
			}
			return stream.SendAndClose(&loggregatorv2.BatchSenderResponse{})
		}
		if err != nil {
			return err
		}
		if err := s.add(b); err != nil {
			return err
		}
	}
}

func (s *server) add(b *loggregatorv2.EnvelopeBatch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.batch != nil {
		if err := s.batch(len(s.batches) + 1); err != nil {
			s.batches = append(s.batches, 0)
			return err
		}
	}
	s.batches = append(s.batches, len(b.GetBatch()))
	s.got = append(s.got, b.GetBatch()...)
	return nil
}

func (s *server) received() []*loggregatorv2.Envelope {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}
