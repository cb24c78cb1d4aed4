package emit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/cli/internal/emit"
)

func line(source string, n int) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		Timestamp: int64(n),
		SourceId:  source,
		Message:   &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: fmt.Appendf(nil, "line %d", n)}},
	}
}

func dial(t *testing.T, cfg emit.Config) *emit.Sender {
	t.Helper()
	s, err := emit.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sendLines(t *testing.T, s *emit.Sender, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := s.Send(line("app", n)); err != nil {
			t.Fatalf("send %d: %v", n, err)
		}
	}
}

func checkInOrder(t *testing.T, got []*loggregatorv2.Envelope, want int) {
	t.Helper()
	if len(got) != want {
		t.Fatalf("%d envelopes arrived, want %d", len(got), want)
	}
	for n, e := range got {
		if e.GetTimestamp() != int64(n) || string(e.GetLog().GetPayload()) != fmt.Sprintf("line %d", n) {
			t.Fatalf("envelope %d is %v", n, e)
		}
	}
}

func TestCloseWaitsUntilEverythingIsAccepted(t *testing.T) {
	for _, tc := range []struct {
		name   string
		finish func(loggregatorv2.Ingress_BatchSenderServer) error
	}{
		{"an answer", nil},
		{"the end of file, as Loggregator's servers", func(loggregatorv2.Ingress_BatchSenderServer) error { return io.EOF }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := &server{finish: tc.finish}
			addr, _ := srv.listen(t, "127.0.0.1:0")
			s := dial(t, emit.Config{Addr: addr})
			sendLines(t, s, 0, 1234)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			checkInOrder(t, srv.received(), 1234)
			if st := s.Stats(); st.Taken != 1234 || st.Confirmed != 1234 || st.Resent != 0 || st.Bytes == 0 {
				t.Errorf("stats %+v", st)
			}
			if slices.Max(srv.batches) != 100 {
				t.Errorf("batches %v", srv.batches)
			}
			if err := s.Send(line("app", 0)); !errors.Is(err, emit.ErrClosed) {
				t.Errorf("send after close: %v", err)
			}
		})
	}
}

func TestALoneEnvelopeIsSentSoon(t *testing.T) {
	arrived := make(chan struct{}, 1)
	srv := &server{batch: func(int) error { arrived <- struct{}{}; return nil }}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	s := dial(t, emit.Config{Addr: addr})
	sendLines(t, s, 0, 1)
	select {
	case <-arrived:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing arrived")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLargeBatchesAreClosedByBytesAndConfirmedOnTheWay(t *testing.T) {
	srv := &server{}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	s := dial(t, emit.Config{Addr: addr})
	big := line("app", 0)
	big.GetLog().Payload = make([]byte, 1<<20)
	for range 20 {
		if err := s.Send(big); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Confirmed == 0 {
		t.Errorf("nothing confirmed after 20 MiB: %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(srv.received()) != 20 || slices.Max(srv.batches) != 1 || srv.streams < 3 {
		t.Errorf("%d arrived in batches %v on %d streams", len(srv.received()), srv.batches, srv.streams)
	}
}

func TestABrokenStreamIsSentAgain(t *testing.T) {
	srv := &server{batch: func(n int) error {
		if n == 3 {
			return status.Error(codes.Unavailable, "draining")
		}
		return nil
	}}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	var notices notices
	s := dial(t, emit.Config{Addr: addr, Notice: notices.add})
	sendLines(t, s, 0, 1000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	seen := map[int64]int{}
	for _, e := range srv.received() {
		seen[e.GetTimestamp()]++
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000 lines arrived", len(seen))
	}
	st := s.Stats()
	if st.Confirmed != 1000 || st.Resent == 0 || len(srv.received()) > 1000+int(st.Resent) {
		t.Errorf("stats %+v, %d arrived", st, len(srv.received()))
	}
	if all := notices.all(); !strings.Contains(all, "is gone (draining)") || !strings.Contains(all, "may be there twice") {
		t.Errorf("notices: %s", all)
	}
}

func TestARestartedDopplerIsFoundAgain(t *testing.T) {
	first := &server{}
	addr, stop := first.listen(t, "127.0.0.1:0")
	s := dial(t, emit.Config{Addr: addr})
	sendLines(t, s, 0, 150)
	stop()
	second := &server{}
	second.listen(t, addr)
	sendLines(t, s, 150, 300)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkInOrder(t, second.received(), 300)
}

func TestALostDopplerIsAnErrorWithNumbers(t *testing.T) {
	srv := &server{}
	addr, stop := srv.listen(t, "127.0.0.1:0")
	s := dial(t, emit.Config{Addr: addr, GiveUp: 100 * time.Millisecond})
	sendLines(t, s, 0, 7)
	stop()
	err := s.Close()
	if err == nil || !strings.Contains(err.Error(), "0 envelopes confirmed and 7 not") {
		t.Errorf("error: %v", err)
	}
}

func TestARefusalIsNotTriedAgain(t *testing.T) {
	srv := &server{batch: func(int) error { return status.Error(codes.InvalidArgument, "no thanks") }}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	s := dial(t, emit.Config{Addr: addr})
	sendLines(t, s, 0, 7)
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "no thanks") {
		t.Errorf("error: %v", err)
	}
	if srv.streams != 1 {
		t.Errorf("%d streams", srv.streams)
	}
}

func TestAServerThatNeverConfirms(t *testing.T) {
	srv := &server{finish: func(stream loggregatorv2.Ingress_BatchSenderServer) error {
		<-stream.Context().Done()
		return stream.Context().Err()
	}}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	s := dial(t, emit.Config{Addr: addr, ConfirmTimeout: 50 * time.Millisecond})
	sendLines(t, s, 0, 1)
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "no confirmation within 50ms") {
		t.Errorf("error: %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	srv := &server{}
	addr, stop := srv.listen(t, "127.0.0.1:0")
	stop()
	_, err := emit.DialAll(t.Context(), []string{addr, addr}, emit.Config{})
	if err == nil || strings.Count(err.Error(), "connection refused") != 2 || strings.Contains(err.Error(), "desc =") {
		t.Errorf("error: %v", err)
	}
}

func TestCancelUnblocksAStuckSender(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	srv := &server{batch: func(int) error { <-block; return nil }}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := emit.Dial(ctx, emit.Config{Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		e := line("app", 0)
		e.GetLog().Payload = make([]byte, 1<<20)
		for {
			if err := s.Send(e); err != nil {
				failed <- err
				return
			}
		}
	}()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "canceled") {
		t.Errorf("error: %v", err)
	}
	if err := s.Close(); err == nil {
		t.Error("close says all is well")
	}
}

func TestAFleetKeepsTheOrderOfEachSource(t *testing.T) {
	one, two := &server{}, &server{}
	addrOne, _ := one.listen(t, "127.0.0.1:0")
	addrTwo, _ := two.listen(t, "127.0.0.1:0")
	f, err := emit.DialAll(t.Context(), []string{addrOne, addrTwo}, emit.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		if err := f.Send(line(fmt.Sprintf("app-%d", n%10), n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f.Stats().Confirmed != 1000 {
		t.Errorf("stats %+v", f.Stats())
	}
	home := map[string]*server{}
	last := map[string]int64{}
	for _, srv := range []*server{one, two} {
		if len(srv.received()) == 0 {
			t.Error("a Doppler got nothing")
		}
		for _, e := range srv.received() {
			id := e.GetSourceId()
			if home[id] == nil {
				home[id], last[id] = srv, -1
			}
			if home[id] != srv || e.GetTimestamp() <= last[id] {
				t.Fatalf("%s is split or out of order", id)
			}
			last[id] = e.GetTimestamp()
		}
	}
}

func TestInvalidUTF8IsRefusedAndTheNextIsSent(t *testing.T) {
	srv := &server{}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	s := dial(t, emit.Config{Addr: addr})
	if err := s.Send(line("\xff", 0)); err == nil {
		t.Error("taken")
	}
	sendLines(t, s, 0, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkInOrder(t, srv.received(), 2)
}

// notices collects what a person would be told.
type notices struct {
	mu   sync.Mutex
	told []string
}

func (n *notices) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, s)
}

func (n *notices) all() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.told, "\n")
}

// witness writes down what it is told.
type witness struct {
	mu   sync.Mutex
	said []string
}

func (w *witness) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

func (w *witness) Confirmed(n uint64)       { w.say("below %d confirmed", n) }
func (w *witness) Broken(first, end uint64) { w.say("%d to %d again", first, end) }
func (w *witness) Mended()                  { w.say("mended") }

func TestObserverIsToldWhatBecomesOfEnvelopes(t *testing.T) {
	srv := &server{batch: func(n int) error {
		if n == 3 {
			return status.Error(codes.Unavailable, "restarting")
		}
		return nil
	}}
	addr, _ := srv.listen(t, "127.0.0.1:0")
	w := &witness{}
	s := dial(t, emit.Config{Addr: addr, BatchEnvelopes: 10, BatchDelay: time.Hour, Observer: w})
	sendLines(t, s, 0, 30)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"0 to 30 again", "mended", "below 30 confirmed"}; !slices.Equal(w.said, want) {
		t.Errorf("said %q, want %q", w.said, want)
	}
}
